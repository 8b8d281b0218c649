"""What pods share on a Mac, and what is remembered of each."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edgemodel.node.admission import Refused
from edgemodel.node.processes import Run
from edgemodel.node.record import Counts, Record
from edgemodel.node.room import Refusals, Room

GIB = 1 << 30


def a_room(memory: int | None = 8 * GIB) -> Room:
    """Two addresses and 8 GiB."""
    return Room(("192.0.2.10", "192.0.2.11"), lambda: memory)


def test_each_pod_gets_an_address_of_its_own() -> None:
    room = a_room()
    assert [room.take(uid, GIB) for uid in ("a", "b")] == ["192.0.2.10", "192.0.2.11"]
    with pytest.raises(Refused) as refused:
        room.take("c", GIB)
    assert refused.value.reason == "OutOfAddresses"
    room.give_back("a")
    assert room.take("c", GIB) == "192.0.2.10"


def test_memory_of_all_pods_counts() -> None:
    room = a_room()
    room.take("a", 5 * GIB)
    with pytest.raises(Refused) as refused:
        room.take("b", 4 * GIB)
    assert refused.value.reason == "OutOfMemory"
    assert room.take("b", 3 * GIB)


def test_pod_waits_for_one_that_leaves() -> None:
    room = a_room()
    room.take("a", 5 * GIB)
    room.leaves("a")
    assert room.take("b", 5 * GIB) is None
    room.give_back("a")
    assert room.take("b", 5 * GIB)


def test_pod_that_does_not_fit_without_those_that_leave_is_refused_at_once() -> None:
    room = a_room()
    room.take("a", 5 * GIB)
    room.leaves("a")
    with pytest.raises(Refused):
        room.take("b", 9 * GIB)


def test_pods_of_before_have_their_places(tmp_path: Path) -> None:
    record = Record("retail", "a", "a", "2026-01-02T03:04:05Z", address="192.0.2.11", memory=5 * GIB)
    record.write(tmp_path)
    read = Record.read(tmp_path)
    assert read == record
    room = a_room()
    room.keep(read)
    assert room.take("b", 3 * GIB) == "192.0.2.10"


def test_record_that_was_not_finished_is_none(tmp_path: Path) -> None:
    assert Record.read(tmp_path) is None
    (tmp_path / "pod.json").write_text('{"namespace": "retail"')
    assert Record.read(tmp_path) is None


def test_pods_of_one_owner_are_refused_more_slowly_each_time() -> None:
    refusals = Refusals()
    owned = {"metadata": {"ownerReferences": [{"uid": "replicaset"}]}}
    assert [refusals.delay(owned, 100.0) for _ in range(4)] == [0, 10, 20, 40]
    assert refusals.delay({"metadata": {"ownerReferences": [{"uid": "another"}]}}, 100.0) == 0
    assert refusals.delay({"metadata": {}}, 100.0) == 0
    assert refusals.delay(owned, 1000.0) == 0


def run(attempt: int, lasted: float, ago: float = 0) -> Run:
    """A run that ended."""
    end = datetime.now(UTC) - timedelta(seconds=ago)
    return Run(attempt, 42, (end - timedelta(seconds=lasted)).isoformat(), end.isoformat(), code=1)


def test_end_of_a_run_is_counted_once() -> None:
    counts = Counts(attempt=1)
    assert counts.judge(run(1, 5))
    assert not counts.judge(run(1, 5))
    assert (counts.crashes, counts.restarts) == (1, 0)
    assert counts.wait(run(1, 5)) <= 0
    assert counts.judge(run(2, 5))
    assert 9 < counts.wait(run(2, 5)) <= 10
    assert 4 < counts.wait(run(2, 5, ago=5)) <= 5  # also for an agent that has just begun


def test_run_that_lasted_ends_the_loop() -> None:
    counts = Counts(attempt=5, judged=4, crashes=4)
    assert counts.judge(run(5, lasted=700))
    assert counts.crashes == 1
