"""An engine on a thread of its own, and the requests that wait for their turn in it."""

import asyncio
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import count
from typing import Generic, Protocol, TypeVar

from edgemodel.serve.bell import Bell


class BusyError(Exception):
    """As many requests wait as may."""


class EngineFailedError(Exception):
    """The engine failed, and with it every request that it had."""


class Closable(Protocol):
    """An engine, as far as its thread needs to know it."""

    def close(self) -> None:
        """Gives back what it holds."""


class Asked(Protocol):
    """A request."""

    number: int

    def fail(self) -> None:
        """Hears that the engine failed, in the event loop."""


Engine = TypeVar("Engine", bound=Closable)
Request = TypeVar("Request", bound=Asked)


class EngineThread(ABC, Generic[Engine, Request]):
    """Makes an engine and turns it on a thread, as long as there are requests. A bounded number of them waits."""

    def __init__(self, make: Callable[[], Engine], at_most_waiting: int) -> None:
        self._make = make
        self._at_most_waiting = at_most_waiting
        self._news = threading.Condition()
        self._waiting: deque[Request] = deque()
        self._running: dict[int, Request] = {}
        self._closed = False
        self._numbers = count(1)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._made: Future[Engine] = Future()
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

    async def open(self) -> Engine:
        """Has the engine made, which may take minutes. Raises what its maker raises."""
        self._bell = Bell(asyncio.get_running_loop())
        self._thread.start()
        return await asyncio.wrap_future(self._made)

    async def close(self) -> None:
        """Ends the thread, and the engine with it."""
        with self._news:
            self._closed = True
            self._news.notify()
        await asyncio.to_thread(self._thread.join)
        self._bell.close()

    def _queue(self, request: Request) -> None:
        """Lets a request wait. Raises `BusyError` if too many wait already."""
        with self._news:
            if self.failure is not None:
                raise EngineFailedError("the engine failed")
            if len(self._waiting) >= self._at_most_waiting:
                raise BusyError(f"{len(self._waiting)} requests wait already")
            self._waiting.append(request)
            self._news.notify()

    # On the engine's thread

    @abstractmethod
    def _turn(self, engine: Engine) -> None:
        """Takes in what may come in, and brings what is in further."""

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

    def _fail(self, error: Exception) -> None:
        with self._news:
            self.failure = error
            left = [*self._running.values(), *self._waiting]
            self._running.clear()
            self._waiting.clear()
        self._bell.call(_fail_all, left)


def _fail_all(requests: Sequence[Asked]) -> None:
    for request in requests:
        request.fail()
