"""Everything that can be wrong, all at once in one namespace: each is said, loops nowhere, and passes when mended.

One operator has an EdgeModel for each case; the stand-in lets the pods of each end as the real ones would.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import pytest

from tests.apiserver.operator.world import Place, World, condition, edge_model, is_settled, wait
from tests.cluster_stand_in import (
    OUT_OF_MEMORY,
    Behaviour,
    End,
    Ends,
    Evicted,
    Obj,
    Waits,
    answers,
    fails,
    publishes,
    serves,
)
from tests.kstatus import kstatus

pytestmark = pytest.mark.xdist_group("refusals")
"""What is said comes before it is mended."""

Mend = Literal["spec", "secret", "resolver pod", "artifact", "wait", "nothing"]


@dataclass(frozen=True)
class Case:
    """What is wrong with one EdgeModel, what is to be said of it, and how it is mended."""

    reason: str
    says: str
    """A part of the message."""
    mend: Mend
    """spec: the spec is corrected. secret: another Secret is named. resolver pod, artifact: it is deleted, as the
    message says. wait: it passes by itself."""
    resolver: End | None = None
    job: End | None = None
    serving: End | None = None
    variant: Obj = field(default_factory=dict)
    condition: Literal["Stalled", "Reconciling"] = "Stalled"


SAYS_NOTHING = Ends("")
NO_SECRET = fails("SecretNotFound", "there is no Secret hub-token: create it", retry=True)
UNKNOWN = "llamacpp does not know MambaForCausalLM"
CASES = {
    "runtime": Case("UnknownRuntime", "there are: llamacpp", "spec", variant={"runtime": "llamacp"}),
    "scheme": Case("UnknownScheme", "Q4_K_M, Q8_0", "spec", variant={"quantization": {"scheme": "Q9"}}),
    "hardware": Case("UnknownHardware", "x86-64", "spec", variant={"hardware": "riscv"}),
    "no-node": Case("NoNode", "waiting for one", "spec", variant={"hardware": "mars"}, condition="Reconciling"),
    "no-secret": Case("SecretNotFound", "Secret hub-token", "wait", resolver=NO_SECRET, condition="Reconciling"),
    "unauthorized": Case("SourceUnauthorized", "401", "secret", resolver=fails("SourceUnauthorized", "it says 401")),
    "not-found": Case("SourceNotFound", "404", "resolver pod", resolver=fails("SourceNotFound", "it says 404")),
    "pickle": Case("PickleRefused", "pickles", "resolver pod", resolver=fails("PickleRefused", "only pickles")),
    "path": Case("PathRefused", "leaves", "resolver pod", resolver=fails("PathRefused", "../x leaves its folder")),
    "garbled": Case("ResolverAnswer", "can't read", "resolver pod", resolver=Ends("{}")),
    "silent": Case("ResolverAnswer", "can't read", "resolver pod", resolver=SAYS_NOTHING),
    "resolver-image": Case("ImageNotFound", "no x:1", "wait", resolver=Waits("ErrImagePull", "no x:1")),
    "truncated": Case("Truncated", "shorter", "artifact", job=fails("Truncated", "x is shorter than it says")),
    "architecture": Case("UnsupportedArchitecture", UNKNOWN, "artifact", job=fails("UnsupportedArchitecture", UNKNOWN)),
    "disk": Case("DiskFull", "more storage", "artifact", job=fails("DiskFull", "the node needs more storage")),
    "evicted": Case("DiskFull", "more disk", "artifact", job=Evicted("Usage of EmptyDir volume exceeds the limit")),
    "denied": Case("StoreDenied", "refuses", "artifact", job=fails("StoreDenied", "the store refuses the credentials")),
    "job-image": Case("ImageNotFound", "no x:1", "wait", job=Waits("ImagePullBackOff", "no x:1")),
    "serving-image": Case("ImageNotFound", "no x:1", "wait", serving=Waits("ErrImagePull", "no x:1")),
}


def source_of(name: str) -> Obj:
    """A source of the case's own."""
    return {"uri": f"hf://owner/{name}", "revision": "main"}


def model_of(name: str, namespace: str, variant: Obj, **source: object) -> Obj:
    """The case's EdgeModel."""
    variants = [{"name": "cpu", "runtime": "llamacpp", "hardware": "x86-64"} | variant]
    return edge_model(name, namespace, source=source_of(name) | source, variants=variants)


@dataclass
class Crowd:
    """All cases in one place."""

    world: World
    place: Place
    mended: set[str] = field(default_factory=set)

    def _end(self, obj: Obj, step: str, otherwise: Callable[[Obj], End]) -> End:
        """How the case wants it; a Job is known by its source."""
        text = str(obj["spec"])
        labels = obj["metadata"]["labels"]
        for name, case in CASES.items():
            is_its = labels.get("edgemodel.dev/model") == name or f'"hf://owner/{name}"' in text
            end: End | None = getattr(case, step)
            if is_its and end is not None and name not in self.mended:
                return end
        return otherwise(obj)

    def behaviour(self) -> Behaviour:
        """What becomes of the pods."""
        return Behaviour(
            resolver=lambda pod: self._end(pod, "resolver", answers),
            job=lambda job: self._end(job, "job", publishes),
            serving=lambda pod: self._end(pod, "serving", serves),
        )

    def model(self, name: str) -> Obj:
        """The case's EdgeModel as it is."""
        return self.place.get("EdgeModel", name) or {}

    def said(self, name: str) -> Obj:
        """The case's EdgeModel as it said what is wrong: one that is tried again says so only until then."""
        case = CASES[name]

        def says() -> Obj:
            model = self.model(name)
            found = condition(model, case.condition)
            return model if found.get("reason") == case.reason and case.says in found["message"] else {}

        return wait(f"{name}: {case.reason}", says)


@pytest.fixture(scope="module")
def crowd(world: World) -> Iterator[Crowd]:
    """All of them, created at once."""
    with world.place() as place:
        crowd = Crowd(world, place)
        world.stand_in.behaviours[place.namespace] = crowd.behaviour()
        mars = {
            "apiVersion": "edgemodel.dev/v1alpha1", "kind": "HardwareClass", "metadata": {"name": "mars"},
            "spec": {"architectures": ["mars"]},
        }  # fmt: skip
        world.apply(mars)
        runtime = world.get("EdgeRuntime", "", "llamacpp")
        assert runtime
        world.merge(runtime, {"spec": {"hardware": [{"class": "x86-64"}, {"class": "mars"}]}})
        place.start()
        for name, case in CASES.items():
            world.apply(model_of(name, place.namespace, case.variant))
        yield crowd
        assert place.complaints() == []
        world.merge(runtime, {"spec": {"hardware": [{"class": "x86-64"}]}})
        world.delete(mars)


@pytest.mark.parametrize("name", CASES)
def test_it_is_said(crowd: Crowd, name: str) -> None:
    """In a condition, in the variant's state, and in an Event."""
    case = CASES[name]
    model = crowd.said(name)
    assert kstatus(model) == ("Failed" if case.condition == "Stalled" else "InProgress")
    assert condition(model, "Ready")["status"] == "False"
    assert [line["state"] for line in model["status"]["variants"]] == [case.reason]

    def told() -> list[Obj]:
        events = crowd.world.events(crowd.place.namespace, name)
        return [event for event in events if event["reason"] == case.reason]

    (event, *more) = wait("an Event", told)
    assert not more, "said once"
    assert case.says in event["note"]
    assert event["type"] == ("Warning" if case.condition == "Stalled" else "Normal")


def test_nothing_loops(crowd: Crowd) -> None:
    """All of them together: over some seconds only what is tried again writes, and that seldom."""
    for name in CASES:
        crowd.said(name)
    time.sleep(2)
    before = list(crowd.place.writes.seen)
    time.sleep(6)
    writes = crowd.place.writes.seen[len(before) :]
    # One case is tried again after 10, 20, ... seconds: another pod for the one before, and a status each time. Those
    # are four writes, of which one may have to be repeated; all over again they would be eight.
    assert [write for write in writes if "/no-secret" not in write] == []
    assert len(writes) <= 6, writes


def test_each_passes_when_it_is_mended(crowd: Crowd) -> None:
    """What the message asks for is enough."""
    place, world = crowd.place, crowd.world
    for name in CASES:
        crowd.said(name)
    crowd.mended.update(CASES)
    world.loop.soon(lambda: world.stand_in.settle_again(place.namespace))
    for name, case in CASES.items():
        match case.mend:
            case "spec":
                world.apply(model_of(name, place.namespace, {}))
            case "secret":
                world.apply(model_of(name, place.namespace, {}, secretRef={"name": "hub-token"}))
            case "resolver pod":
                for pod in place.all("Pod"):
                    labels = pod["metadata"]["labels"]
                    if (labels["edgemodel.dev/role"], labels.get("edgemodel.dev/model")) == ("resolve", name):
                        assert pod["metadata"]["name"] in condition(crowd.model(name), "Stalled")["message"]
                        world.delete(pod)
            case "artifact":
                key = crowd.model(name)["status"]["variants"][0]["artifact"]["key"]
                artifact = place.get("ModelArtifact", key)
                assert artifact
                world.delete(artifact)
    late = set(CASES)

    def all_ready() -> bool:
        late.difference_update([name for name in late if is_settled(crowd.model(name), "Ready")])
        return not late

    try:
        # What is tried again by itself is after 10, 30, 70, 150 and 310 s.
        wait("all Ready", all_ready, timeout=330, pause=0.2)
    except AssertionError:
        stuck = {name: crowd.model(name)["status"]["conditions"] for name in late}
        raise AssertionError(f"not mended: {stuck}") from None


def test_memory(world: World) -> None:
    """Not enough memory is tried again with twice as much, twice; then it is for the user to act."""
    with world.place() as place:
        killed = {"twice": 2, "always": 9}

        def job(obj: Obj) -> End:
            attempt = int(obj["metadata"]["name"].rpartition("-")[2])
            name = "twice" if "hf://owner/twice" in str(obj["spec"]) else "always"
            return OUT_OF_MEMORY if attempt <= killed[name] else Ends("")

        world.behave(place.namespace, job=job)
        place.start()
        for name in killed:
            world.apply(model_of(name, place.namespace, {}))
        wait("tried again", lambda: len(place.world.behaviour(place.namespace).started) >= 2 + 4)

        def said(name: str, kind: str) -> Obj:
            return condition(place.get("EdgeModel", name), kind)

        wait("the one made", lambda: said("twice", "Ready").get("status") == "True")
        wait("the other given up", lambda: said("always", "Stalled").get("reason") == "OutOfMemory")
        assert "4 times the memory" in said("always", "Stalled")["message"]
        assert "memoryOverhead" in said("always", "Stalled")["message"]
        jobs = [name for kind, name in world.behaviour(place.namespace).started if kind == "Job"]
        attempts = sorted(int(name.rpartition("-")[2]) for name in jobs)
        assert attempts == [1, 1, 2, 2, 3, 3]
        made = next(
            artifact for artifact in place.all("ModelArtifact") if artifact["spec"]["source"]["uri"].endswith("/twice")
        )
        assert made["status"]["job"]["memoryAttempt"] == 3
        last = next(job for job in place.all("Job") if job["metadata"]["name"] == made["status"]["job"]["name"])
        limit = last["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"]
        # 2 bytes a weight, three batches of logits, the toolchain's own: 2081 MiB; four times that.
        assert limit == "8323Mi"
        assert place.complaints() == []


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ({"uri": "hf://owner"}, "hf://OWNER/NAME"),
        ({"uri": "s3://bucket/../secret"}, "'..'"),
        ({"uri": "https://169.254.169.254/latest"}, "link-local"),
        ({"uri": "https://user:password@host/x.gguf"}, "Secret"),
        ({"uri": "http://host/x.gguf"}, "uri"),
        ({"uri": "file:///etc/passwd"}, "uri"),
        ({"uri": "https://host/x.gguf", "revision": "main"}, "revision"),
    ],
)
def test_what_the_api_server_refuses(world: World, source: Obj, says: str) -> None:
    """A source that can't be right does not become an object."""
    namespace = world.new_namespace("refused")
    assert says in world.is_accepted(edge_model("model", namespace, source=source))
