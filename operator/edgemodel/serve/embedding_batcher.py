"""Turns an engine that embeds on a thread of its own: texts of several requests together, as many as it takes."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from edgemodel.serve.engine import EmbeddingEngine
from edgemodel.serve.engine_thread import EngineFailedError, EngineThread

Embedding = list[float]


class Texts:
    """The texts of one request, as token ids, and what comes of them. Await the result, or close it."""

    def __init__(self, batcher: "EmbeddingBatcher", number: int, texts: Sequence[Sequence[int]]) -> None:
        self.number = number
        self.texts = texts
        # A batch is as long as its longest text: those of about a length go together.
        self.left = deque(sorted(range(len(texts)), key=lambda place: len(texts[place])))
        """Places of the texts that no batch has had yet."""
        self._batcher = batcher
        self._found: dict[int, Embedding] = {}
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def result(self) -> list[Embedding]:
        """The embedding of each text. `EngineFailedError` if there will be none."""
        await self._done
        return [self._found[place] for place in range(len(self.texts))]

    def close(self) -> None:
        """Nobody wants them any more."""
        self._done.cancel()
        self._batcher.drop(self)

    def put(self, place: int, embedding: Embedding) -> None:
        """The embedding of one text."""
        self._found[place] = embedding
        if len(self._found) == len(self.texts) and not self._done.done():
            self._done.set_result(None)

    def fail(self) -> None:
        """There will be no more."""
        if not self._done.done():
            self._done.set_exception(EngineFailedError("the engine failed"))


class EmbeddingBatcher(EngineThread[EmbeddingEngine, Texts]):
    """Lets requests wait for their turn, and has `parallel` texts in the engine at a time: of as many requests as
    there are, so that none waits for all of another's."""

    def __init__(self, make: Callable[[], EmbeddingEngine], parallel: int, at_most_waiting: int) -> None:
        super().__init__(make, at_most_waiting)
        self._parallel = parallel

    def submit(self, texts: Sequence[Sequence[int]]) -> Texts:
        """Queues a request. Raises `BusyError` if too many wait already."""
        request = Texts(self, next(self._numbers), texts)
        self._queue(request)
        return request

    def drop(self, request: Texts) -> None:
        """Takes a request back; what is in the engine of it comes to nothing."""
        with self._news:
            if not self._running.pop(request.number, None) and request in self._waiting:
                self._waiting.remove(request)

    def _turn(self, engine: EmbeddingEngine) -> None:
        batch = self._next()
        if not batch:
            return
        embeddings = engine.embed([request.texts[place] for request, place in batch])
        with self._news:
            for request, _ in batch:
                if not request.left:
                    self._running.pop(request.number, None)
        self._bell.call(_hand_out, batch, embeddings)

    def _next(self) -> list[tuple[Texts, int]]:
        """The next batch: a text of each request in turn, until it is full."""
        with self._news:
            while self._waiting and len(self._running) < self._parallel:
                request = self._waiting.popleft()
                self._running[request.number] = request
            turns = deque(self._running.values())
            batch: list[tuple[Texts, int]] = []
            while turns and len(batch) < self._parallel:
                request = turns.popleft()
                batch.append((request, request.left.popleft()))
                if request.left:
                    turns.append(request)
            return batch


def _hand_out(batch: Sequence[tuple[Texts, int]], embeddings: Sequence[Embedding]) -> None:
    for (request, place), embedding in zip(batch, embeddings, strict=True):
        request.put(place, embedding)
