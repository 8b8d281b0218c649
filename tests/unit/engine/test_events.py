"""How much an object may say."""

import asyncio
from typing import Any, cast

import pytest
from prometheus_client import REGISTRY

from edgemodel.engine.client import Client
from edgemodel.engine.errors import ApiError
from edgemodel.engine.events import Events


class StandIn:
    """Keeps what is created. What it does not prove: that an API server takes it."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.fails = False

    async def create(self, event: dict[str, Any]) -> None:
        if self.fails:
            raise ApiError(500, "InternalError", "no")
        self.notes.append(event["note"])


@pytest.fixture
def client() -> StandIn:
    return StandIn()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr("edgemodel.engine.events.time.monotonic", lambda: now[0])
    return now


def say(events: Events, uid: str, *messages: str) -> None:
    about = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": uid, "namespace": "n", "uid": uid}}
    for message in messages:
        asyncio.run(events.emit(about, "Reason", message))


def events_of(client: StandIn) -> Events:
    return Events(cast(Client, client), "controller", "instance")


def counted(result: str) -> float:
    return REGISTRY.get_sample_value("edgemodel_events_total", {"result": result}) or 0.0


def test_the_same_is_said_once_in_ten_minutes(client: StandIn, clock: list[float]) -> None:
    events = events_of(client)
    say(events, "a", "x", "x")
    say(events, "b", "x")
    assert client.notes == ["x", "x"]
    clock[0] += 599
    say(events, "a", "x")
    assert len(client.notes) == 2
    clock[0] += 2
    say(events, "a", "x")
    assert len(client.notes) == 3


def test_an_object_that_never_stops_is_heard_now_and_then_and_the_others_as_ever(
    client: StandIn, clock: list[float]
) -> None:
    events = events_of(client)
    dropped = counted("dropped")
    say(events, "a", *map(str, range(40)))
    assert client.notes == [str(number) for number in range(25)]
    assert counted("dropped") == dropped + 15
    say(events, "b", "x")
    assert client.notes[25:] == ["x"]
    clock[0] += 300
    say(events, "a", "later", "at once")
    assert client.notes[26:] == ["later"]


def test_a_crowd_is_heard_whole(client: StandIn, clock: list[float]) -> None:
    events = events_of(client)
    for number in range(1000):
        say(events, str(number), "x")
    assert len(client.notes) == 1000


def test_objects_of_long_ago_are_forgotten(client: StandIn, clock: list[float]) -> None:
    events = events_of(client)
    for number in range(100):
        say(events, str(number), "x")
    clock[0] += 25 * 300 + 1
    say(events, "new", "x")
    assert list(events._allowances) == ["new"]
    assert len(events._said) == 1


def test_one_that_cannot_be_written_is_counted_and_raises_nothing(client: StandIn) -> None:
    failed = counted("failed")
    client.fails = True
    say(events_of(client), "a", "x")
    assert counted("failed") == failed + 1
