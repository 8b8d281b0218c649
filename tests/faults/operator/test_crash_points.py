"""The operator is killed at each of its writes in turn, through a whole life of an EdgeModel, on a real API server.

A life: created, resolved, made, rolled out; another scheme, made, rolled over, the old artifact gone; deleted, and
nothing left. Its writes are those to the API server and those to the object store, in the order in which they come; a
proxy counts them, and kills the process with SIGKILL before the n-th is carried out, or after it is and before anyone
hears of it. Then another operator starts. Whatever n was, each stage must end in the same objects, statuses and store,
with one Job for each artifact key.

Lives run four at a time on one API server; each operator sees only its own namespace and bucket.
"""

import json
import re
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import count
from typing import Literal

import pytest

from tests.apiserver.operator.world import Place, World, edge_model, is_settled
from tests.cluster_stand_in import Obj

KINDS = ("EdgeModel", "ModelArtifact", "Job", "Deployment", "DaemonSet", "Service")
TOLD = ("EdgeModel", "ModelArtifact", "Pod")
"""Kinds of which a failure tells more."""
AT_A_TIME = 4
STAGE_SECONDS = 120.0

Snapshot = Counter[str]
When = Literal["before", "after"]


@dataclass
class Life:
    """What became of one life."""

    stages: list[Snapshot] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)
    jobs: Counter[str] = field(default_factory=Counter)
    resolvers: Counter[str] = field(default_factory=Counter)
    killed_at: str = ""
    complaints: list[str] = field(default_factory=list)


def snapshot(place: Place) -> Snapshot:
    """All that there is, without what differs from life to life: names of places, uids, times."""

    def plain(value: object, *uids: str) -> str:
        text = json.dumps(value, sort_keys=True)
        for name in (place.namespace, place.bucket.config.bucket, place.store_proxy.url, *uids):
            text = text.replace(name, "")
        text = re.sub(r'"(lastTransitionTime|clusterIPs?)": (\[[^]]*\]|"[^"]*"),? ?', "", text)
        return sha256(text.encode()).hexdigest()[:8]

    found: Snapshot = Counter()
    for kind in KINDS:
        for obj in place.seen(kind):
            metadata = obj["metadata"]
            going = "going" if "deletionTimestamp" in metadata else ""
            # What our own two say of themselves is compared word for word.
            status = obj.get("status") if kind in ("EdgeModel", "ModelArtifact") else None
            line = f"{kind} {metadata['name']} {plain(obj['spec'], metadata['uid'])} {going}"
            found[f"{line} {plain(status)}" if status else line] += 1
    for pod in place.seen("Pod"):
        labels = pod["metadata"]["labels"]
        found[f"Pod {labels['edgemodel.dev/role']} {labels.get('edgemodel.dev/artifact', '')}"] += 1
    for key in stored(place):
        found[f"store {key.replace(place.namespace, '')}"] += 1
    return found


def stored(place: Place) -> set[str]:
    """What is in the bucket; something else while a folder goes as it is read."""
    try:
        return place.bucket.keys()
    except FileNotFoundError:
        return {"in motion"}


def live(world: World, kill_at: int = 0, when: When = "after", expected: list[Snapshot] | None = None) -> Life:
    """One life. Without `expected`, each stage is over when the status says so and nothing changes any more."""
    life = Life()
    with world.place() as place:
        place.writes.when = when
        place.start(kill_at)

        def keep_alive() -> None:
            if place.writes.dead:
                life.killed_at = place.writes.seen[-1]
                place.start()

        def reach(what: str, is_over: Callable[[], bool]) -> None:
            until = time.monotonic() + STAGE_SECONDS
            wanted = expected[len(life.stages)] if expected else None
            last: Snapshot = Counter()
            while True:
                keep_alive()
                if is_over():
                    now = snapshot(place)
                    if now == wanted or (wanted is None and now == last):
                        life.stages.append(now)
                        return
                    last = now
                if time.monotonic() > until:
                    differs = f"missing: {(wanted or last) - last}, too much: {last - (wanted or last)}"
                    killed = f"killed {when} write {kill_at} ({life.killed_at})"
                    raise AssertionError(
                        f"{killed}, not {what} in {STAGE_SECONDS:.0f} s; {differs}; "
                        f"{[(obj['metadata'], obj.get('status')) for kind in TOLD for obj in place.seen(kind)]}; "
                        f"writes: {place.writes.seen}; "
                        f"log: {place.operators[-1].log.read_text()[-2000:]}"
                    )
                time.sleep(0.03 if wanted else 1.0)

        def served(schemes: str) -> bool:
            models = place.seen("EdgeModel")
            return any(is_settled(model, "Ready") and model["status"]["summary"] == schemes for model in models)

        world.apply(edge_model("model", place.namespace))
        reach("served", lambda: served("Q4_K_M"))
        world.apply(edge_model("model", place.namespace, variants=[variant("Q8_0")]))
        reach("rolled over", lambda: served("Q8_0"))
        world.delete(place.seen("EdgeModel")[0])
        reach("gone", lambda: not any(place.seen(kind) for kind in (*KINDS, "Pod")) and not stored(place))
        started = world.behaviour(place.namespace).started
        life.jobs = Counter(name for kind, name in started if kind == "Job")
        life.resolvers = Counter(name for kind, name in started if kind == "Pod")
        life.writes = place.writes.seen
        life.complaints = place.complaints()
    return life


def variant(scheme: str) -> Obj:
    """The one variant."""
    return {"name": "cpu", "runtime": "llamacpp", "hardware": "x86-64", "quantization": {"scheme": scheme}}


@pytest.fixture(scope="module")
def undisturbed(world: World) -> Life:
    """A life in which nobody is killed."""
    return live(world)


def test_a_life_undisturbed(undisturbed: Life) -> None:
    """What the others are compared with is what was asked for."""
    served, rolled_over, gone = undisturbed.stages
    for stage in (served, rolled_over):
        kinds = Counter(line.split()[0] for line in stage.elements())
        # The last Job stays for an hour, for its logs; its pod, too.
        assert kinds == {
            "EdgeModel": 1,
            "ModelArtifact": 1,
            "Job": 1,
            "Deployment": 1,
            "Service": 1,
            "Pod": 2,
            "store": 3,
        }
    assert gone == Counter()
    assert sorted(undisturbed.jobs.values()) == [1, 1]
    assert sorted(undisturbed.resolvers.values()) == [1]
    assert undisturbed.complaints == []


@pytest.mark.timeout(900)
@pytest.mark.parametrize("when", ["after", "before"])
def test_killed_at_each_write(world: World, undisturbed: Life, when: When) -> None:
    """Each of the writes is tried, and a few numbers more, for their order is not always the same."""
    points = count(1)
    killed: Counter[str] = Counter()
    survived = 0

    def one(kill_at: int) -> Life:
        return live(world, kill_at, when, undisturbed.stages)

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        while survived == 0:
            # A life that ends before its kill: there are no more writes.
            for life in pool.map(one, [next(points) for _ in range(AT_A_TIME)]):
                assert set(life.jobs) == set(undisturbed.jobs)
                assert set(life.jobs.values()) == {1}, (life.killed_at, life.jobs)
                assert life.resolvers == undisturbed.resolvers, life.killed_at
                assert life.complaints == [], life.killed_at
                killed[re.sub(r"[0-9a-f]{16,}|t-[0-9a-f]{8}|test-[0-9a-f]{12}", "*", life.killed_at)] += 1
                survived += not life.killed_at
    del killed[""]
    print(f"killed {when} each of {killed.total()} writes: {dict(killed)}")
    assert killed.total() >= len(undisturbed.writes) - 5
