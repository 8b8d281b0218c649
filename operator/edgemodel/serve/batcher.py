"""Turns a text engine on a thread of its own and hands each request its tokens."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future

from edgemodel.serve.engine import Output, Sampling, TextEngine


class BusyError(Exception):
    """As many requests wait as may."""


class EngineFailedError(Exception):
    """The engine failed, and with it every request that it had."""


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

    def put(self, output: Output | None) -> None:
        """An output, or None for the engine's failure."""
        self._outputs.put_nowait(output)


class Batcher:
    """Lets requests wait for their turn, and has `parallel` of them in the engine at a time."""

    def __init__(self, make: Callable[[], TextEngine], parallel: int, at_most_waiting: int) -> None:
        self._make = make
        self._parallel = parallel
        self._at_most_waiting = at_most_waiting
        self._news = threading.Condition()
        self._waiting: deque[Answer] = deque()
        self._running: dict[int, Answer] = {}
        self._dropped: list[int] = []
        self._closed = False
        self._numbers = 0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._made: Future[TextEngine] = Future()
        self.failure: BaseException | None = None
        """Why the engine can't go on. It must be made anew, best in a new process."""

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests that the engine has."""
        return len(self._running)

    async def open(self) -> TextEngine:
        """Has the engine made, which may take minutes. Raises what its maker raises."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        return await asyncio.wrap_future(self._made)

    async def close(self) -> None:
        """Ends the thread, and the engine with it."""
        with self._news:
            self._closed = True
            self._news.notify()
        await asyncio.to_thread(self._thread.join)

    def submit(self, prompt: Sequence[int], sampling: Sampling) -> Answer:
        """Queues a request. Raises `BusyError` if too many wait already."""
        with self._news:
            if self.failure is not None:
                raise EngineFailedError("the engine failed")
            if len(self._waiting) >= self._at_most_waiting:
                raise BusyError(f"{len(self._waiting)} requests wait already")
            self._numbers += 1
            answer = Answer(self, self._numbers, prompt, sampling)
            self._waiting.append(answer)
            self._news.notify()
        return answer

    def drop(self, answer: Answer) -> None:
        """Takes a request back."""
        with self._news:
            if answer.number in self._running:
                self._dropped.append(answer.number)
                self._news.notify()
            elif answer in self._waiting:
                self._waiting.remove(answer)

    # On the engine's thread

    def _run(self) -> None:
        try:
            engine = self._make()
        except BaseException as error:
            self._made.set_exception(error)
            return
        self._made.set_result(engine)
        try:
            while self._wait():
                self._turn(engine)
        except Exception as error:
            self._fail(error)
        finally:
            engine.close()

    def _wait(self) -> bool:
        """Until there is something to do; False if all is to end."""
        with self._news:
            self._news.wait_for(lambda: self._closed or self._waiting or self._running)
            return not self._closed

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
            self._loop.call_soon_threadsafe(_hand_out, found)

    def _fail(self, error: Exception) -> None:
        with self._news:
            self.failure = error
            left = [*self._running.values(), *self._waiting]
            self._running.clear()
            self._waiting.clear()
        self._loop.call_soon_threadsafe(_hand_out, [(answer, None) for answer in left])


def _hand_out(found: Sequence[tuple[Answer, Output | None]]) -> None:
    for answer, output in found:
        answer.put(output)
