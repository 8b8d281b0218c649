"""Threads for what waits on the network."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

WORKERS = 8
"""Calls at the same time. One connection to AWS brings about 90 MB/s."""

Report = Callable[[int, int], None]
"""Hears how many bytes are done, and of how many. Called from several threads, one at a time."""


def run_all(function: Callable[[T], R], items: Iterable[T], workers: int = WORKERS) -> list[R]:
    """The results of `function` for each item, in order. A failure keeps what has not begun from beginning."""
    pool = ThreadPoolExecutor(workers)
    try:
        futures = [pool.submit(function, item) for item in items]
        for future in wait(futures, return_when=FIRST_EXCEPTION).done:
            future.result()
        return [future.result() for future in futures]
    finally:
        pool.shutdown(cancel_futures=True)


class Counter:
    """Adds up the bytes that several threads have done."""

    def __init__(self, total: int, report: Report | None) -> None:
        self._total = total
        self._report = report
        self._done = 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """`count` more bytes are done."""
        with self._lock:
            self._done += count
            if self._report:
                self._report(self._done, self._total)
