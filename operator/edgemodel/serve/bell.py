"""Wakes an event loop from another thread, which goes on at once."""

import asyncio
import ctypes
import os
from collections import deque
from collections.abc import Callable
from typing import Any

# Called through `PyDLL`, it keeps the interpreter's lock.
_write = ctypes.PyDLL(None).write
_AT_ONCE = 1 << 12


class Bell:
    """`call_soon_threadsafe`, but that the loop does not take the interpreter's lock from the thread that wakes it.

    That one lets the lock go while it writes to the loop's socket, and gets it back when the loop has done what it was
    woken for. An engine is not to wait for that: it turns on, and lets the lock go for all of its next step.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._heard, self._rung = os.pipe()
        for end in (self._heard, self._rung):
            os.set_blocking(end, False)
        loop.add_reader(self._heard, self._answer)

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        """Has the loop call a function, after those before. From any thread."""
        self._calls.append((function, arguments))
        _write(self._rung, b"!", 1)  # a pipe that is full wakes the loop, too

    def close(self) -> None:
        """In the loop, when nobody calls any more: what is left is done now."""
        self._loop.remove_reader(self._heard)
        os.close(self._heard)
        os.close(self._rung)
        self._work()

    def _answer(self) -> None:
        os.read(self._heard, _AT_ONCE)
        self._work()

    def _work(self) -> None:
        while self._calls:
            function, arguments = self._calls.popleft()
            function(*arguments)
