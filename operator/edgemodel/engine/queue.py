"""A work queue: each key at most once at a time, again after a delay, again later and later after failures.

The semantics and the metric names are those of client-go's workqueue, so that its dashboards fit. A key added while it
is being worked on runs once more afterwards. The workers are tasks made on demand, so an idle queue costs nothing.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from prometheus_client import Counter, Gauge, Histogram

K = TypeVar("K", bound=Hashable)

_BUCKETS = (1e-3, 5e-3, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60, 300)
_DEPTH = Gauge("workqueue_depth", "Keys that wait", ["name"])
_ADDS = Counter("workqueue_adds", "Keys that came in", ["name"])
_RETRIES = Counter("workqueue_retries", "Keys that came again after a failure", ["name"])
_WAITED = Histogram("workqueue_queue_duration_seconds", "How long a key waited", ["name"], buckets=_BUCKETS)
_WORKED = Histogram("workqueue_work_duration_seconds", "How long a key took", ["name"], buckets=_BUCKETS)
_UNFINISHED = Gauge("workqueue_unfinished_work_seconds", "Seconds of work in progress, of all workers", ["name"])
_LONGEST = Gauge("workqueue_longest_running_processor_seconds", "How long the slowest worker has been at it", ["name"])

FIRST_BACKOFF = 0.05
LAST_BACKOFF = 300.0


class WorkQueue(Generic[K]):
    """Keys to be handled, by at most `workers` tasks at a time. Nothing is handled before `start`."""

    def __init__(self, name: str, handle: Callable[[K], Awaitable[None]], workers: int) -> None:
        self._handle = handle
        self._workers = workers
        self._open = False
        self._closed = False
        self._ready: deque[K] = deque()
        self._dirty: dict[K, float] = {}  # since when it waits
        self._running: dict[K, float] = {}  # since when it runs
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}
        self._adds = _ADDS.labels(name)
        self._retries = _RETRIES.labels(name)
        self._waited = _WAITED.labels(name)
        self._worked = _WORKED.labels(name)
        _DEPTH.labels(name).set_function(lambda: len(self._dirty))
        _UNFINISHED.labels(name).set_function(lambda: sum(time.monotonic() - since for since in self._running.values()))
        _LONGEST.labels(name).set_function(self.longest_running)

    def add(self, key: K) -> None:
        """Wants a key handled soon."""
        if self._closed or key in self._dirty:
            return
        self._adds.inc()
        self._dirty[key] = time.monotonic()
        if key not in self._running:
            self._ready.append(key)
            self._dispatch()

    def add_after(self, key: K, seconds: float) -> None:
        """Wants a key handled after a while, at the latest: whatever handles it sooner cancels this."""
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if self._closed or (timer and timer.when() <= loop.time() + seconds):
            return
        if timer:
            timer.cancel()
        self._timers[key] = loop.call_later(seconds, self._ring, key)

    def add_rate_limited(self, key: K) -> float:
        """Wants a key handled after a failure: later each time, until `forget`. The delay in seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        self._retries.inc()
        delay = min(LAST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(failures, 32)) * random.uniform(0.5, 1)  # noqa: S311
        self.add_after(key, delay)
        return delay

    def forget(self, key: K) -> None:
        """A key went well: its next failure counts as its first."""
        self._failures.pop(key, None)

    def longest_running(self) -> float:
        """For how many seconds the slowest worker has been at its key."""
        return time.monotonic() - min(self._running.values()) if self._running else 0.0

    def start(self) -> None:
        """Lets the workers begin."""
        self._open = True
        self._dispatch()

    async def drain(self, seconds: float) -> bool:
        """Hands out nothing more and waits for what runs, then cancels it. Whether all ended by itself in `seconds`."""
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        if not self._tasks:
            return True
        _, late = await asyncio.wait(self._tasks, timeout=seconds)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        return not late

    def _ring(self, key: K) -> None:
        del self._timers[key]
        self.add(key)

    def _dispatch(self) -> None:
        while self._open and not self._closed and self._ready and len(self._running) < self._workers:
            key = self._ready.popleft()
            now = time.monotonic()
            self._waited.observe(now - self._dirty.pop(key))
            self._running[key] = now
            if timer := self._timers.pop(key, None):
                timer.cancel()
            task = asyncio.get_running_loop().create_task(self._work(key), name=str(key))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _work(self, key: K) -> None:
        try:
            await self._handle(key)
        finally:
            self._worked.observe(time.monotonic() - self._running.pop(key))
            if key in self._dirty:
                self._ready.append(key)
            self._dispatch()
