"""Turns a text engine on a thread of its own and hands each request its tokens."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from edgemodel.serve.engine import Output, Sampling, TextEngine
from edgemodel.serve.engine_thread import EngineFailedError, EngineThread


class Answer:
    """What comes of one request. Read it to its end, or close it."""

    def __init__(self, batcher: "Batcher", number: int, prompt: Sequence[int], sampling: Sampling) -> None:
        self.number = number
        self.prompt = prompt
        self.sampling = sampling
        self._batcher = batcher
        self._outputs: asyncio.Queue[Output | None] = asyncio.Queue()
        self._is_open = True

    async def __aiter__(self) -> AsyncIterator[Output]:
        """The outputs as they come. `EngineFailedError` if no more can come."""
        while self._is_open:
            output = await self._outputs.get()
            if output is None:
                self._is_open = False
                raise EngineFailedError("the engine failed")
            self._is_open = output.finish is None
            yield output

    def close(self) -> None:
        """Nobody wants the rest."""
        if self._is_open:
            self._is_open = False
            self._batcher.drop(self)

    def put(self, output: Output) -> None:
        """An output."""
        self._outputs.put_nowait(output)

    def fail(self) -> None:
        """There will be no more."""
        self._outputs.put_nowait(None)


class Batcher(EngineThread[TextEngine, Answer]):
    """Lets requests wait for their turn, and has `parallel` of them in the engine at a time."""

    def __init__(self, make: Callable[[], TextEngine], parallel: int, at_most_waiting: int) -> None:
        super().__init__(make, at_most_waiting)
        self._parallel = parallel
        self._dropped: list[int] = []

    def submit(self, prompt: Sequence[int], sampling: Sampling) -> Answer:
        """Queues a request. Raises `BusyError` if too many wait already."""
        answer = Answer(self, next(self._numbers), prompt, sampling)
        self._queue(answer)
        return answer

    def drop(self, answer: Answer) -> None:
        """Takes a request back."""
        with self._news:
            if answer.number in self._running:
                self._dropped.append(answer.number)
                self._news.notify()
            elif answer in self._waiting:
                self._waiting.remove(answer)

    def _turn(self, engine: TextEngine) -> None:
        with self._news:
            dropped = [number for number in self._dropped if self._running.pop(number, None)]
            self._dropped.clear()
            room = min(self._parallel - len(self._running), len(self._waiting))
            admitted = [self._waiting.popleft() for _ in range(room)]
            self._running |= {answer.number: answer for answer in admitted}
            idle = not self._running
        # What an engine does takes its time, and who submits is not to wait for it.
        for number in dropped:
            engine.cancel(number)
        for answer in admitted:
            engine.add(answer.number, answer.prompt, answer.sampling)
        if idle:
            return
        outputs = engine.step()
        with self._news:
            found = [(self._running[output.request], output) for output in outputs]
            for output in outputs:
                if output.finish:
                    del self._running[output.request]
        if found:
            self._bell.call(_hand_out, found)


def _hand_out(found: Sequence[tuple[Answer, Output]]) -> None:
    for answer, output in found:
        answer.put(output)
