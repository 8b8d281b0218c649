import asyncio
import itertools
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from prometheus_client import REGISTRY

from edgemodel.engine import queue as queues
from edgemodel.engine.queue import WorkQueue

_names = (f"test-{number}" for number in itertools.count())


def run(scenario: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 10))


class Worker:
    """Handles keys: records them, and holds each until it is let go."""

    def __init__(self, *, hold: bool = False) -> None:
        self.handled: list[str] = []
        self.running: list[str] = []
        self.most = 0
        self.gate = asyncio.Event()
        if not hold:
            self.gate.set()

    async def __call__(self, key: str) -> None:
        assert key not in self.running, "one worker a key"
        self.running.append(key)
        self.most = max(self.most, len(self.running))
        try:
            await self.gate.wait()
        finally:
            self.running.remove(key)
        self.handled.append(key)


def a_queue(worker: Worker, workers: int = 4, *, start: bool = True) -> WorkQueue[str]:
    queue = WorkQueue(next(_names), worker, workers)
    if start:
        queue.start()
    return queue


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_a_key_added_often_before_the_start_is_handled_once() -> None:
    async def scenario() -> None:
        worker = Worker()
        queue = a_queue(worker, start=False)
        for key in "aabba":
            queue.add(key)
        await settle()
        assert worker.handled == []
        queue.start()
        await settle()
        assert worker.handled == ["a", "b"]

    run(scenario)


def test_a_key_added_while_it_is_handled_is_handled_once_more() -> None:
    async def scenario() -> None:
        worker = Worker(hold=True)
        queue = a_queue(worker)
        queue.add("a")
        await settle()
        queue.add("a")
        queue.add("a")
        await settle()
        assert worker.running == ["a"]
        worker.gate.set()
        await settle()
        assert worker.handled == ["a", "a"]

    run(scenario)


def test_no_more_workers_than_allowed() -> None:
    async def scenario() -> None:
        worker = Worker(hold=True)
        queue = a_queue(worker, workers=3)
        for number in range(10):
            queue.add(str(number))
        await settle()
        assert worker.most == 3
        worker.gate.set()
        await settle()
        assert worker.handled == [str(number) for number in range(10)]
        assert worker.most == 3

    run(scenario)


def test_a_delayed_key_comes_at_the_earliest_of_its_times() -> None:
    async def scenario() -> None:
        worker = Worker()
        queue = a_queue(worker)
        queue.add_after("a", 60)
        queue.add_after("a", 0.02)
        queue.add_after("a", 30)
        await asyncio.sleep(0.1)
        assert worker.handled == ["a"]

    run(scenario)


def test_a_key_that_is_handled_sooner_forgets_its_delay() -> None:
    async def scenario() -> None:
        worker = Worker()
        queue = a_queue(worker)
        queue.add_after("a", 0.05)
        queue.add("a")
        await asyncio.sleep(0.15)
        assert worker.handled == ["a"]

    run(scenario)


def test_failures_back_off_up_to_a_limit_until_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda _low, high: high)

    async def scenario() -> None:
        queue = a_queue(Worker(), start=False)
        assert [queue.add_rate_limited("a") for _ in range(4)] == [0.05, 0.1, 0.2, 0.4]
        assert queue.add_rate_limited("b") == 0.05
        for _ in range(100):
            last = queue.add_rate_limited("a")
        assert last == queues.LAST_BACKOFF
        queue.forget("a")
        assert queue.add_rate_limited("a") == 0.05

    run(scenario)


def test_backoff_has_jitter() -> None:
    async def scenario() -> None:
        queue = a_queue(Worker(), start=False)
        delays = {queue.add_rate_limited(str(number)) for number in range(20)}
        assert len(delays) > 1
        assert all(0.025 <= delay <= 0.05 for delay in delays)

    run(scenario)


def test_a_drain_waits_for_what_runs_and_hands_out_nothing_more() -> None:
    async def scenario() -> None:
        worker = Worker(hold=True)
        queue = a_queue(worker, workers=1)
        queue.add("a")
        queue.add("b")
        await settle()
        draining = asyncio.create_task(queue.drain(5))
        await settle()
        assert not draining.done()
        worker.gate.set()
        assert await draining
        queue.add("c")
        await settle()
        assert worker.handled == ["a"]

    run(scenario)


def test_a_drain_cuts_off_what_does_not_end() -> None:
    async def scenario() -> None:
        worker = Worker(hold=True)
        queue = a_queue(worker)
        queue.add("a")
        await settle()
        assert not await queue.drain(0.01)
        assert worker.running == []
        assert worker.handled == []

    run(scenario)


def test_metrics_tell_what_waits_and_what_runs() -> None:
    async def scenario() -> None:
        worker = Worker(hold=True)
        name = next(_names)
        queue = WorkQueue(name, worker, workers=1)

        def sample(metric: str) -> Any:
            return REGISTRY.get_sample_value(metric, {"name": name})

        queue.add("a")
        queue.add("b")
        assert sample("workqueue_depth") == 2
        queue.start()
        await asyncio.sleep(0.02)
        assert sample("workqueue_depth") == 1
        assert sample("workqueue_adds_total") == 2
        assert sample("workqueue_longest_running_processor_seconds") >= 0.02
        assert sample("workqueue_unfinished_work_seconds") >= 0.02
        worker.gate.set()
        await settle()
        assert sample("workqueue_work_duration_seconds_count") == 2
        assert sample("workqueue_queue_duration_seconds_count") == 2
        assert sample("workqueue_longest_running_processor_seconds") == 0

    run(scenario)
