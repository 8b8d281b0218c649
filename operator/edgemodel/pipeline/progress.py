"""How far the Job is: told to the store and to the log, every other second at most, by a thread of its own.

A store that is slow or away holds nothing up, and a report that fails fails nothing.
"""

import threading
from collections.abc import Callable

from edgemodel.api.artifact import Progress
from edgemodel.pipeline.termination import log
from edgemodel.store.errors import StoreError

INTERVAL = 2.0

Write = Callable[[Progress], None]


class Reporter:
    """Passes on the latest progress. Safe to call from any thread."""

    def __init__(self, write: Write, interval: float = INTERVAL) -> None:
        self._write = write
        self._interval = interval
        self._latest: Progress | None = None
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._thread.start()

    def step(self, name: str, total: int = 0) -> "Step":
        """A new step begins, of `total` bytes if that is known."""
        log("step", step=name)
        return Step(self, name, total)

    def tell(self, progress: Progress) -> None:
        """This is how far it is now."""
        with self._lock:
            self._latest = progress
        self._news.set()

    def close(self) -> None:
        """Tells the last news, if the store takes it soon."""
        self._closed.set()
        self._news.set()
        self._thread.join(self._interval)

    def _run(self) -> None:
        while not self._closed.is_set():
            self._news.wait()
            self._news.clear()
            self._pass_on()
            self._closed.wait(self._interval)
        self._pass_on()

    def _pass_on(self) -> None:
        with self._lock:
            latest, self._latest = self._latest, None
        if latest is None:
            return
        log("progress", **latest.dump())
        try:
            self._write(latest)
        except (StoreError, OSError) as error:
            log("progress was not stored", error=type(error).__name__)


class Step:
    """One step of the Job."""

    def __init__(self, reporter: Reporter, name: str, total: int) -> None:
        self._reporter = reporter
        self._name = name
        self._total = total
        self._done = 0
        self._lock = threading.Lock()
        self.share(0.0)

    def add(self, count: int) -> None:
        """`count` more bytes are done."""
        with self._lock:
            self._done += count
            self.bytes(self._done, self._total)

    def bytes(self, done: int, total: int) -> None:
        """So many bytes of so many are done."""
        percent = min(100, 100 * done // total) if total else 0
        self._reporter.tell(
            Progress(step=self._name, percent=max(0, percent), bytes_done=max(0, done), bytes_total=total)
        )

    def share(self, done: float) -> None:
        """Such a part of it is done, from 0 to 1."""
        percent = min(100, max(0, int(100 * done)))
        self._reporter.tell(Progress(step=self._name, percent=percent, bytes_total=self._total))
