"""The life of an EdgeModel: each stage as GitOps tools see it, sharing, changes, and hands that meddle."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.apiserver.operator.world import Place, World, condition, edge_model, is_settled, wait
from tests.cluster_stand_in import Ends, Obj, Runs, answers, publishes, resolved
from tests.kstatus import kstatus

CHILDREN = ("ModelArtifact", "Pod", "Job", "Deployment", "DaemonSet", "Service")


@pytest.fixture
def place(world: World) -> Iterator[Place]:
    """A namespace, a bucket and an operator of the test's own."""
    with world.place() as place:
        place.start()
        yield place
        assert place.complaints() == []


def variant(name: str = "cpu", **fields: object) -> Obj:
    """A variant on the node that is there."""
    return {"name": name, "runtime": "llamacpp", "hardware": "x86-64", **fields}


def ready(place: Place, name: str = "model", **wanted: object) -> Obj:
    """The EdgeModel once it is Ready for its spec as it is."""

    def is_ready() -> Obj | None:
        model = place.get("EdgeModel", name)
        assert model
        fits = all(model.get("status", {}).get(field) == value for field, value in wanted.items())
        return model if is_settled(model, "Ready") and fits else None

    try:
        found = wait(f"{name} Ready", is_ready)
    except AssertionError:
        pods = [(pod["metadata"]["name"], pod.get("status")) for pod in place.all("Pod")]
        workloads = [
            (obj["kind"], obj.get("status")) for kind in ("Deployment", "DaemonSet") for obj in place.all(kind)
        ]
        raise AssertionError(f"not Ready: {place.get('EdgeModel', name)}, {workloads}, {pods}") from None
    assert found
    return found


def gone(place: Place) -> bool:
    """Whether nothing is left, in the cluster or the store."""
    return not any(place.all(kind) for kind in CHILDREN) and not stored(place)


def stored(place: Place) -> set[str]:
    """What is in the bucket; something else while a folder goes as it is read."""
    try:
        return place.bucket.keys()
    except FileNotFoundError:
        return {"in motion"}


def started(place: Place, kind: str) -> list[str]:
    """Every Job, or every resolver pod, that ever was."""
    return [name for seen, name in place.world.behaviour(place.namespace).started if seen == kind]


def calm(place: Place, seconds: float = 3.0) -> int:
    """Waits until the last effects are over; then how many writes there are over some seconds.

    They are over after three seconds without a write: a busy machine lets the operator wait for longer than one.
    """
    before, since = len(place.writes.seen), time.monotonic()
    while time.monotonic() - since < 3:
        time.sleep(0.1)
        if len(place.writes.seen) != before:
            before, since = len(place.writes.seen), time.monotonic()
    time.sleep(seconds)
    return len(place.writes.seen) - before


@contextmanager
def recorded(place: Place, kind: str) -> Iterator[list[Obj]]:
    """Every version of the objects of a kind."""
    versions: list[Obj] = []

    async def record() -> None:
        async for event in place.world.api.watch(kind, place.namespace):
            if "object" in event:
                versions.append(event["object"])

    stop = place.world.loop.start(record())
    try:
        yield versions
    finally:
        stop()


def reasons(versions: list[Obj]) -> list[str]:
    """The reasons of Ready in their order, each once."""
    found = [condition(version, "Ready").get("reason", "") for version in versions]
    return [reason for index, reason in enumerate(found) if index == 0 or reason != found[index - 1]]


def test_each_stage_as_kstatus_reads_it(world: World, place: Place) -> None:
    """In progress until served, never failed, never current too early; then nothing is written any more."""
    world.behave(place.namespace, resolver=lambda _: Runs(), job=lambda _: Runs(), serving=lambda _: Runs(ready=False))
    with recorded(place, "EdgeModel") as models, recorded(place, "ModelArtifact") as artifacts:
        world.apply(edge_model("model", place.namespace))

        def says(reason: str) -> None:
            wait(reason, lambda: condition(place.get("EdgeModel", "model"), "Ready").get("reason") == reason)

        says("ResolvingSource")
        assert place.all("ModelArtifact") == []
        world.behave(place.namespace, resolver=answers)
        says("MakingArtifact")
        wait("a Job", lambda: place.all("Job"))
        assert place.all("Deployment") == []
        world.behave(place.namespace, job=publishes)
        says("RollingOut")
        wait("no resolver", lambda: all(pod["metadata"]["labels"]["edgemodel.dev/role"] != "resolve"
                                        for pod in place.all("Pod")))  # fmt: skip
        world.behave(place.namespace, serving=lambda _: Runs())
        model = ready(place)
        assert calm(place) == 0
        world.delete(model)
        wait("nothing left", lambda: gone(place))
    assert reasons(models)[-4:] == ["ResolvingSource", "MakingArtifact", "RollingOut", "Serving"]
    assert reasons(artifacts)[-2:] == ["Making", "Published"]
    for version in (*models, *artifacts):
        if "deletionTimestamp" in version["metadata"] or "conditions" not in version.get("status", {}):
            continue
        abnormal = [kind for kind in ("Reconciling", "Stalled") if condition(version, kind)]
        is_current = is_settled(version, "Ready")
        assert len(abnormal) == (0 if is_current else 1), version
        assert kstatus(version) == ("Current" if is_current else "InProgress")
    said = {event["reason"] for event in world.events(place.namespace, "model")}
    assert {"ResolvingSource", "MakingArtifact", "RollingOut", "Serving"} <= said
    variants = model["status"]["variants"]
    assert [(line["state"], line["replicas"]["ready"], line["scheme"]) for line in variants] == [
        ("Serving", 1, "Q4_K_M")
    ]
    assert model["status"]["endpoint"] == f"http://model.{place.namespace}.svc/v1"


def test_two_that_want_the_same_share_it(world: World, place: Place) -> None:
    """No second Job, no second resolver; and it stays for as long as one of them is there."""
    world.apply(edge_model("model", place.namespace))
    first = ready(place)
    world.apply(edge_model("other", place.namespace))
    second = ready(place, "other")
    assert first["status"]["source"] == second["status"]["source"]
    assert len(started(place, "Job")) == len(started(place, "Pod")) == 1
    world.delete(first)
    wait("its children gone", lambda: [item["metadata"]["name"] for item in place.all("Deployment")] == ["other-cpu"])
    assert calm(place) == 0
    assert len(place.all("ModelArtifact")) == 1
    assert any("blobs" in key for key in stored(place))
    world.delete(second)
    wait("nothing left", lambda: gone(place))
    assert len(started(place, "Job")) == 1


def test_two_that_read_the_same_files_in_different_places_share_it(world: World, place: Place) -> None:
    """The key of an artifact is of what the source holds, not of where it is: who comes second is told, too."""
    answer = Ends(resolved("the same files").model_dump_json(by_alias=True, exclude_none=True))
    world.behave(place.namespace, resolver=lambda _: answer, job=lambda _: Runs())
    world.apply(edge_model("model", place.namespace))
    wait("a Job", lambda: len(started(place, "Job")) == 1)
    world.apply(edge_model("copy", place.namespace, source={"uri": "s3://bucket/the-same-files"}))
    wait("both wait for it", lambda: is_settled(place.get("EdgeModel", "copy"), "Reconciling", "MakingArtifact"))
    world.behave(place.namespace, resolver=lambda _: answer, job=publishes)
    first, second = ready(place), ready(place, "copy")
    assert len(started(place, "Job")) == len(place.all("ModelArtifact")) == 1
    world.delete(first)
    wait("its children gone", lambda: [item["metadata"]["name"] for item in place.all("Deployment")] == ["copy-cpu"])
    assert calm(place) == 0
    assert len(place.all("ModelArtifact")) == 1
    world.delete(second)
    wait("nothing left", lambda: gone(place))
    assert len(started(place, "Job")) == 1


def test_the_old_serves_until_the_new_does(world: World, place: Place) -> None:
    """Another scheme: while its artifact is made and while its pods start, the old ones are left alone."""
    world.apply(edge_model("model", place.namespace))
    old = ready(place)["status"]["variants"][0]["artifact"]["key"]

    def served() -> str:
        labels: Obj = place.all("Deployment")[0]["spec"]["template"]["metadata"]["labels"]
        return str(labels["edgemodel.dev/artifact"])

    world.behave(place.namespace, job=lambda _: Runs())
    world.apply(edge_model("model", place.namespace, variants=[variant(quantization={"scheme": "Q8_0"})]))
    wait("a second Job", lambda: len(started(place, "Job")) == 2)
    assert calm(place, 1) == 0
    assert served() == old
    assert kstatus(place.get("EdgeModel", "model") or {}) == "InProgress"
    world.behave(place.namespace, job=publishes, serving=lambda pod: Runs(ready=old in str(pod["metadata"]["labels"])))

    def of_pods() -> set[str]:
        labels = [pod["metadata"]["labels"] for pod in place.all("Pod")]
        return {each["edgemodel.dev/artifact"] for each in labels if each["edgemodel.dev/role"] == "serve"}

    wait("new pods", lambda: served() != old and of_pods() >= {old, served()})
    time.sleep(1)
    assert of_pods() == {old, served()}
    assert {artifact["metadata"]["name"] for artifact in place.all("ModelArtifact")} == {old, served()}
    world.behave(place.namespace, serving=lambda _: Runs())
    ready(place, summary="Q8_0")
    wait("the old artifact gone", lambda: len(place.all("ModelArtifact")) == 1)
    wait("its bytes gone", lambda: sum("blobs" in key for key in stored(place)) == 1)


def test_a_node_joins(world: World, place: Place) -> None:
    """A variant that waits for hardware starts when it is there, and is gone when it leaves the spec."""
    hardware = {
        "apiVersion": "edgemodel.dev/v1alpha1", "kind": "HardwareClass", "metadata": {"name": "arm"},
        "spec": {"architectures": ["arm64"]},
    }  # fmt: skip
    node = {
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": "arm-1", "labels": {"kubernetes.io/arch": "arm64", "kubernetes.io/os": "linux"}},
    }  # fmt: skip
    runtime = world.get("EdgeRuntime", "", "llamacpp")
    assert runtime
    both = [variant(), variant("arm", hardware="arm")]
    try:
        world.apply(hardware)
        world.merge(runtime, {"spec": {"hardware": [{"class": "x86-64"}, {"class": "arm"}]}})
        world.apply(edge_model("model", place.namespace, variants=both))
        model = wait("one serves", lambda: is_partly(place.get("EdgeModel", "model"), "1/2"))
        assert condition(model, "Reconciling")["reason"] == "NoNode"
        assert "arm" in condition(model, "Reconciling")["message"]
        assert [item["metadata"]["name"] for item in place.all("Deployment")] == ["model-cpu"]
        assert calm(place) == 0
        world.apply(node)
        ready(place, readyVariants="2/2")
        labels = (world.get("Node", "", "arm-1") or {})["metadata"]["labels"]
        assert (labels["edgemodel.dev/hardware"], labels["hardware.edgemodel.dev/arm"]) == ("arm", "true")
        world.apply(edge_model("model", place.namespace, variants=[variant()]))
        ready(place, readyVariants="1/1")
        wait("its pods gone", lambda: [item["metadata"]["name"] for item in place.all("Deployment")] == ["model-cpu"])
        assert len(started(place, "Job")) == 1, "both variants want the same artifact"
    finally:
        world.delete(node)
        world.merge(runtime, {"spec": {"hardware": [{"class": "x86-64"}]}})
        world.delete(hardware)


def is_partly(model: Obj | None, ready_variants: str) -> Obj:
    """The EdgeModel, if so many variants are ready."""
    return model if model and model.get("status", {}).get("readyVariants") == ready_variants else {}


def test_a_pod_on_each_node_and_back(world: World, place: Place) -> None:
    """The DaemonSet serves before the Deployment goes, and the other way round."""
    world.apply(edge_model("model", place.namespace))
    ready(place)
    for per_node, kind, other in ((True, "DaemonSet", "Deployment"), (False, "Deployment", "DaemonSet")):
        world.behave(place.namespace, serving=lambda _: Runs(ready=False))
        world.apply(edge_model("model", place.namespace, variants=[variant(perNode=per_node)]))
        wait(f"a {kind}", lambda kind=kind: place.all(kind))  # type: ignore[misc]
        time.sleep(1)
        assert len(place.all(other)) == 1, f"the {other} went before the {kind} served"
        world.behave(place.namespace, serving=lambda _: Runs())
        ready(place)
        wait(f"no {other}", lambda other=other: not place.all(other))  # type: ignore[misc]
    assert calm(place) == 0


MEDDLING: dict[str, Obj] = {
    "image": {"spec": {"template": {"spec": {"containers": [{"name": "serve", "image": "other:1"}]}}}},
    "replicas": {"spec": {"replicas": 3}},
    "selector of nodes": {"spec": {"template": {"spec": {"nodeSelector": None}}}},
    "label": {"metadata": {"labels": {"edgemodel.dev/variant": "other"}}},
    "owner": {"metadata": {"ownerReferences": None}},
}


def test_what_is_edited_by_hand_is_repaired(world: World, place: Place) -> None:
    """Each edit is undone; what others add stays; what is deleted comes back."""
    world.apply(edge_model("model", place.namespace))
    ready(place)

    def now(kind: str, name: str) -> Obj:
        found = place.get(kind, name) or {}
        labels = found.get("metadata", {}).get("labels", {})
        return {
            "spec": {name: value for name, value in found.get("spec", {}).items() if not name.startswith("clusterIP")},
            "labels": {name: value for name, value in labels.items() if name.startswith("edgemodel.dev/")},
            "owners": found.get("metadata", {}).get("ownerReferences"),
        }

    expected = now("Deployment", "model-cpu")
    for what, patch in MEDDLING.items():
        deployment = place.get("Deployment", "model-cpu")
        assert deployment
        world.merge(deployment, patch)
        wait(f"{what} repaired", lambda: now("Deployment", "model-cpu") == expected)
    service = now("Service", "model")
    found = place.get("Service", "model")
    assert found
    world.merge(found, {"spec": {"selector": {"edgemodel.dev/model": "other"}}})
    wait("selector repaired", lambda: now("Service", "model") == service)
    for kind, name, wanted in (("Service", "model", service), ("Deployment", "model-cpu", expected)):
        found = place.get(kind, name)
        assert found
        world.delete(found)
        wait(f"{kind} is back", lambda kind=kind, name=name, wanted=wanted: now(kind, name) == wanted)  # type: ignore[misc]
    deployment = place.get("Deployment", "model-cpu")
    assert deployment
    world.merge(deployment, {"metadata": {"annotations": {"example.com/note": "mine"}}})
    ready(place)
    assert calm(place) == 0
    kept = place.get("Deployment", "model-cpu")
    assert kept
    assert kept["metadata"]["annotations"]["example.com/note"] == "mine"


def test_an_artifact_deleted_by_hand_is_made_again(world: World, place: Place) -> None:
    """The pods serve on meanwhile; and there is one record, one Job, one set of bytes in the end."""
    world.apply(edge_model("model", place.namespace))
    ready(place)
    (artifact,) = place.all("ModelArtifact")
    (deployment,) = place.all("Deployment")
    world.delete(artifact)

    def made_again() -> bool:
        found = place.all("ModelArtifact")
        return (
            len(found) == 1
            and found[0]["metadata"]["uid"] != artifact["metadata"]["uid"]
            and is_settled(found[0], "Ready")
        )

    wait("made again", made_again)
    ready(place)
    assert place.all("Deployment")[0]["metadata"]["uid"] == deployment["metadata"]["uid"]
    assert len(place.all("Job")) == 1
    assert sum("manifest.json" in key for key in stored(place)) == 1
    assert calm(place) == 0


def test_a_job_deleted_by_hand_is_started_again(world: World, place: Place) -> None:
    """Also while it runs."""
    world.behave(place.namespace, job=lambda _: Runs())
    world.apply(edge_model("model", place.namespace))
    (job,) = wait("a Job", lambda: place.all("Job"))
    world.delete(job)
    wait("another", lambda: [found for found in place.all("Job") if found["metadata"]["uid"] != job["metadata"]["uid"]])
    world.behave(place.namespace, job=publishes)
    ready(place)


@pytest.mark.parametrize("stage", ["resolving", "making", "rolling out"])
def test_deleted_half_way(world: World, place: Place, stage: str) -> None:
    """Whatever is under way goes, and nothing is left."""
    stuck: dict[str, Callable[[Obj], Runs]] = {
        {"resolving": "resolver", "making": "job", "rolling out": "serving"}[stage]: lambda _: Runs(ready=False)
    }
    world.behave(place.namespace, **stuck)
    world.apply(edge_model("model", place.namespace))
    reason = {"resolving": "ResolvingSource", "making": "MakingArtifact", "rolling out": "RollingOut"}[stage]
    wait(stage, lambda: condition(place.get("EdgeModel", "model"), "Ready").get("reason") == reason)
    if stage != "resolving":
        wait("a Job", lambda: place.all("Job"))
    world.delete(edge_model("model", place.namespace))
    wait("nothing left", lambda: gone(place))
    assert calm(place) == 0


def test_a_gate_that_is_not_passed(world: World, place: Place) -> None:
    """It stalls with both figures; a lower bar lets it through without another Job."""
    world.apply(edge_model("model", place.namespace, quality={"minAccuracy": "0.999"}))
    model = wait("stalled", lambda: stalled(place, "QualityTooLow"))
    assert all(figure in condition(model, "Stalled")["message"] for figure in ("0.9950", "0.999", "39.7000"))
    assert place.all("Deployment") == []
    assert kstatus(model) == "Failed"
    world.apply(edge_model("model", place.namespace, quality={"minAccuracy": "0.99"}))
    ready(place)
    assert len(started(place, "Job")) == 1


def stalled(place: Place, reason: str, name: str = "model") -> Obj:
    """The EdgeModel, if it is Stalled for this reason."""
    model = place.get("EdgeModel", name)
    return model if model and condition(model, "Stalled").get("reason") == reason else {}
