"""Everything around the operator fails once: its process, its leader, the API server, the object store."""

import os
import signal
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.cluster import binaries
from tests.apiserver.operator.world import (
    Place,
    Restarter,
    World,
    condition,
    edge_model,
    is_settled,
    open_world,
    wait,
)
from tests.cluster_stand_in import Obj, Runs, publishes

Q8 = [{"name": "cpu", "runtime": "llamacpp", "hardware": "x86-64", "quantization": {"scheme": "Q8_0"}}]


@pytest.fixture
def place(world: World) -> Iterator[Place]:
    """A namespace and a bucket."""
    with world.place() as place:
        yield place


def ready(place: Place, name: str = "model", summary: str = "Q4_K_M") -> bool:
    """Whether it serves this scheme."""
    model = place.get("EdgeModel", name)
    return is_settled(model, "Ready") and bool(model and model["status"]["summary"] == summary)


def jobs(place: Place) -> Counter[str]:
    """How often each Job was created."""
    return Counter(name for kind, name in place.world.behaviour(place.namespace).started if kind == "Job")


def test_awake_after_the_world_changed(world: World, place: Place) -> None:
    """A process that slept through it all acts on what it remembers for a moment, and harms nothing."""
    sleeper = place.start()
    world.apply(edge_model("model", place.namespace))
    world.apply(edge_model("going", place.namespace))
    world.apply(edge_model("again", place.namespace))
    wait("all served", lambda: all(ready(place, name) for name in ("model", "going", "again")))
    os.kill(sleeper.pid, signal.SIGSTOP)
    world.apply(edge_model("model", place.namespace, variants=Q8))
    for name in ("going", "again"):
        world.delete(edge_model(name, place.namespace))
    wait("gone", lambda: not place.get("EdgeModel", "again") and not place.get("Deployment", "again-cpu"))
    deployment = place.get("Deployment", "model-cpu")
    assert deployment
    world.merge(deployment, {"spec": {"replicas": 0}})
    world.apply(edge_model("again", place.namespace, variants=Q8))
    os.kill(sleeper.pid, signal.SIGCONT)
    wait("as it is asked", lambda: ready(place, summary="Q8_0") and ready(place, "again", "Q8_0"))
    wait("one artifact", lambda: len(place.all("ModelArtifact")) == 1)
    assert {obj["metadata"]["name"] for obj in place.all("Deployment")} == {"model-cpu", "again-cpu"}
    assert set(jobs(place).values()) == {1}
    assert sleeper.alive


def test_started_after_the_world_changed(world: World, place: Place) -> None:
    """Nobody was there while everything changed."""
    place.start()
    world.apply(edge_model("model", place.namespace))
    world.apply(edge_model("going", place.namespace))
    wait("served", lambda: ready(place) and ready(place, "going"))
    place.operators[0].kill()
    world.apply(edge_model("model", place.namespace, variants=Q8))
    world.delete(edge_model("going", place.namespace))
    for kind in ("Service", "Job"):
        for obj in place.all(kind):
            world.delete(obj)
    wait("gone", lambda: not place.all("Service") and not place.all("Job"))
    place.start()
    wait("as it is asked", lambda: ready(place, summary="Q8_0"))
    wait("one artifact", lambda: len(place.all("ModelArtifact")) == 1)
    wait("a Service", lambda: [obj["metadata"]["name"] for obj in place.all("Service")] == ["model"])
    assert [obj["metadata"]["name"] for obj in place.all("Deployment")] == ["model-cpu"]
    assert set(jobs(place).values()) == {1}


def test_the_leader_is_killed(world: World, place: Place) -> None:
    """The other replica has been watching, and goes on; a leader that only slept ends by itself."""
    place.env["EDGEMODEL_LEASE"] = f"edgemodel-{uuid.uuid4().hex[:8]}"
    first = place.start()
    first.wait_for("leading as")
    second = place.start()
    second.wait_for("all watched resources are listed")
    world.behave(place.namespace, job=lambda _: Runs())
    world.apply(edge_model("model", place.namespace))
    wait("a Job", lambda: place.all("Job"))
    first.kill()
    world.behave(place.namespace, job=publishes)
    wait("served", lambda: ready(place))
    assert set(jobs(place).values()) == {1}
    third = place.start()
    time.sleep(1)
    os.kill(second.pid, signal.SIGSTOP)
    world.apply(edge_model("model", place.namespace, variants=Q8))
    wait("rolled over", lambda: ready(place, summary="Q8_0"))
    os.kill(second.pid, signal.SIGCONT)
    wait("the old leader ends", lambda: not second.alive)
    assert third.alive
    assert set(jobs(place).values()) == {1}


def test_the_store_fails_for_a_while(world: World, place: Place) -> None:
    """It is said, to the EdgeModel's user as well, and passes by itself; nothing is made on a guess meanwhile."""
    broken = True
    place.store_proxy.refuse = lambda method, path: 500 if broken else 0
    place.start()
    world.apply(edge_model("model", place.namespace))

    def says(kind: str) -> list[Obj]:
        found = [obj for obj in place.all(kind) if condition(obj, "Reconciling").get("reason") == "StoreUnavailable"]
        return [obj for obj in found if not condition(obj, "Stalled")]

    def told(reason: str) -> set[str]:
        return {event["regarding"]["kind"] for event in place.all("Event") if event["reason"] == reason}

    wait("said of the artifact", lambda: says("ModelArtifact"))
    wait("said of the model", lambda: says("EdgeModel"))
    # Events come after the statuses that they are about.
    wait("told of both", lambda: {"EdgeModel", "ModelArtifact"} <= told("StoreUnavailable"))
    assert place.all("Job") == []
    before = len(place.writes.seen)
    time.sleep(4)
    assert [line for line in place.writes.seen[before:] if "/apis/" in line] == []
    broken = False
    wait("served", lambda: ready(place))
    broken = True
    world.delete(edge_model("model", place.namespace))
    wait("pods gone", lambda: not place.all("Deployment"))
    time.sleep(2)
    assert len(place.all("ModelArtifact")) == 1, "its bytes are still there"
    broken = False
    wait("nothing left", lambda: not place.all("ModelArtifact") and not place.bucket.keys())
    assert [line for line in place.complaints() if "store" not in line.lower()] == []


def test_the_api_server_is_restarted(tmp_path: Path) -> None:
    """In the middle of everything: the operator stays, and goes on."""
    if binaries.built() is None:
        pytest.skip("the Kubernetes binaries are not built")
    with open_world(tmp_path) as world, world.place() as place:
        restarter = Restarter(world.api.server)
        operator = place.start()
        world.behave(place.namespace, job=lambda _: Runs())
        world.apply(edge_model("model", place.namespace))
        wait("a Job", lambda: place.all("Job"))
        with restarter.down():
            time.sleep(3)
        try:
            wait("an API server", lambda: answers(place))
            world.behave(place.namespace, job=publishes)
            wait("served", lambda: ready(place))
            assert operator.alive
            assert jobs(place) == Counter({place.all("Job")[0]["metadata"]["name"]: 1})
            world.apply(edge_model("model", place.namespace, variants=Q8))
            wait("rolled over", lambda: ready(place, summary="Q8_0"))
        finally:
            restarter.close()


def answers(place: Place) -> bool:
    """Whether the API server does."""
    try:
        return place.get("EdgeModel", "model") is not None
    except Exception:
        return False
