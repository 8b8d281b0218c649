"""A ModelArtifact from the wish to the record, and away again, write by write."""

import json
from typing import Any

import pytest

from edgemodel.api.artifact import Progress
from edgemodel.controllers.modelartifact import PROGRESS_SECONDS
from edgemodel.controllers.resources import ARTIFACT_CONTROLLER
from edgemodel.engine.errors import Conflict, Forbidden
from edgemodel.engine.objects import Object, Ref
from edgemodel.store.errors import DeniedError, StoreError, TransientError
from tests.unit.controllers.stand_ins import World, ago, manifest
from tests.unit.core.samples import OTHER_DIGEST, model_artifact, performance, published

KEY = model_artifact().spec.key
SPEC = model_artifact().spec.dump()
MODEL: Object = {"source": SPEC["source"], "variants": [{"name": "cpu"}]}
COPY = "s3://bucket/the-same-files"
FINALIZER = "edgemodel.dev/store"
FIRST, SECOND, THIRD = (f"quantize-{KEY}-{attempt}" for attempt in (1, 2, 3))


def world(**status: Any) -> World:
    found = World()
    found.put("EdgeModel", MODEL, name="m", status={"observedGeneration": -1})
    found.put("ModelArtifact", SPEC, name=KEY, finalizers=[FINALIZER], status=status or {"observedGeneration": -1})
    return found


def reconcile(found: World) -> float | None:
    return found.reconcile(ARTIFACT_CONTROLLER, KEY)


def started() -> World:
    """The first Job runs."""
    found = world()
    reconcile(found)
    found.writes()
    return found


def job_ended(found: World, kind: str, name: str = FIRST, at: str | None = None) -> None:
    condition = {"type": kind, "status": "True", "message": "m", "lastTransitionTime": at or ago(3600)}
    found.change("Job", name, status={"conditions": [condition]})


def pod_ended(found: World, job: str = FIRST, reason: str = "Error", said: Object | None = None) -> None:
    state = {"exitCode": 1, "reason": reason, "message": json.dumps(said) if said else ""}
    labels = {
        "app.kubernetes.io/managed-by": "edgemodel",
        "edgemodel.dev/artifact": KEY,
        "batch.kubernetes.io/job-name": job,
    }
    status = {"phase": "Failed", "containerStatuses": [{"name": "quantize", "state": {"terminated": state}}]}
    found.put("Pod", {}, name=f"{job}-x", labels=labels, status=status)


def conditions(found: World) -> tuple[str, str, str]:
    said = found.one("ModelArtifact")["status"]["conditions"]
    return said[0]["status"], said[0]["reason"], ",".join(item["type"] for item in said[1:])


def memory(found: World, job: str) -> int:
    (container,) = found.client.objects[Ref("Job", "retail", job)]["spec"]["template"]["spec"]["containers"]
    return int(container["resources"]["limits"]["memory"].removesuffix("Mi"))


# Made once


def test_artifact_is_referred_to_and_looked_for_before_a_job_makes_it() -> None:
    found = world()
    assert reconcile(found) == PROGRESS_SECONDS
    assert found.writes() == [
        "store reference cluster.retail",
        f"apply Job {FIRST}",
        f"status ModelArtifact {KEY}",
        "event Normal Making",
    ]
    assert conditions(found) == ("False", "Making", "Reconciling")
    reconcile(found)
    assert found.writes() == []


def test_artifact_that_is_in_the_store_already_needs_no_job() -> None:
    found = world()
    found.store.published = manifest(KEY)
    assert reconcile(found) is None
    assert found.writes() == [
        "store reference cluster.retail",
        f"status ModelArtifact {KEY}",
        "event Normal Published",
    ]
    assert conditions(found) == ("True", "Published", "")


def test_artifact_of_which_a_blob_is_missing_is_made_again() -> None:
    found = world()
    found.store.published, found.store.whole = manifest(KEY), False
    reconcile(found)
    assert f"apply Job {FIRST}" in found.writes()


def test_progress_of_a_running_job_is_seen() -> None:
    found = started()
    found.store.progress = Progress(step="Evaluate", percent=40)
    assert reconcile(found) == PROGRESS_SECONDS
    status = found.one("ModelArtifact")["status"]
    assert status["progress"]["percent"] == 40
    assert status["conditions"][0]["message"] == "Q4_K_M: Evaluate"


def test_record_is_what_was_published() -> None:
    found = started()
    found.store.published = manifest(KEY)
    found.store.performance = performance()
    job_ended(found, "Complete")
    assert reconcile(found) is None
    status = found.one("ModelArtifact")["status"]
    assert (status["digest"], status["bytes"], status["entrypoint"]) == (OTHER_DIGEST, 100, "model.gguf")
    assert (status["baselineBytes"], status["compression"]) == (250, "2.50")
    assert status["quality"]["accuracy"] == "0.9812"
    assert status["performance"]["speedup"] == "2.00"
    assert "progress" not in status


def test_record_is_left_alone_once_it_is_ready() -> None:
    found = world(**published().status.dump())
    found.store.failure = DeniedError("never asked")
    assert reconcile(found) is None
    assert found.writes() == []


def test_job_that_ended_well_and_published_nothing_stalls() -> None:
    found = started()
    job_ended(found, "Complete")
    reconcile(found)
    assert conditions(found) == ("False", "NotPublished", "Stalled")


def test_job_whose_pod_finds_no_node_stalls_while_it_waits_and_goes_on_when_there_is_one() -> None:
    found = started()
    labels = {"edgemodel.dev/artifact": KEY, "batch.kubernetes.io/job-name": FIRST}
    no_room = [{"type": "PodScheduled", "status": "False", "message": "no room"}]
    found.put("Pod", {}, name="p", labels=labels, status={"phase": "Pending", "conditions": no_room})
    assert reconcile(found) == PROGRESS_SECONDS
    assert conditions(found) == ("False", "Unschedulable", "Reconciling")
    found.change("Pod", "p", status={"phase": "Running"})
    reconcile(found)
    assert conditions(found) == ("False", "Making", "Reconciling")


# Tried again


def test_job_that_can_pass_next_time_waits_before_it_is_tried_again() -> None:
    found = started()
    pod_ended(found)
    job_ended(found, "Failed", at=ago(3))
    again = reconcile(found)
    assert again is not None
    assert 5 < again <= 7
    assert conditions(found) == ("False", "ContainerFailed", "Reconciling")
    assert [job["metadata"]["name"] for job in found.all("Job")] == [FIRST]


def test_next_job_is_there_before_the_last_one_goes() -> None:
    found = started()
    pod_ended(found)
    job_ended(found, "Failed")
    reconcile(found)
    assert found.writes()[:3] == [f"apply Job {SECOND}", f"delete Job {FIRST}", f"status ModelArtifact {KEY}"]
    job = found.one("ModelArtifact")["status"]["job"]
    assert (job["name"], job["attempt"], job["memoryAttempt"]) == (SECOND, 2, 1)
    assert memory(found, SECOND) > 0


def test_job_that_ran_out_of_memory_gets_twice_as_much() -> None:
    found = started()
    once = memory(found, FIRST)
    pod_ended(found, reason="OOMKilled")
    job_ended(found, "Failed")
    reconcile(found)
    assert memory(found, SECOND) in (2 * once, 2 * once - 1)
    pod_ended(found, SECOND, reason="OOMKilled")
    job_ended(found, "Failed", SECOND)
    reconcile(found)
    assert abs(memory(found, THIRD) - 4 * once) <= 3
    pod_ended(found, THIRD, reason="OOMKilled")
    job_ended(found, "Failed", THIRD)
    reconcile(found)
    assert conditions(found) == ("False", "OutOfMemory", "Stalled")


def test_attempts_are_counted_right_by_an_operator_that_was_killed_between_job_and_status() -> None:
    """The status still tells of the first Job; the second, with twice the memory, runs."""
    found = started()
    once = memory(found, FIRST)
    pod_ended(found, reason="OOMKilled")
    job_ended(found, "Failed")
    found.client.refusals["status ModelArtifact"] = Conflict(409, "Conflict", "killed here")
    with pytest.raises(Conflict):
        reconcile(found)
    found.client.refusals.clear()
    reconcile(found)
    assert found.one("ModelArtifact")["status"]["job"]["name"] == SECOND
    pod_ended(found, SECOND, reason="OOMKilled")
    job_ended(found, "Failed", SECOND)
    reconcile(found)
    assert [job["metadata"]["name"] for job in found.all("Job")] == [THIRD]
    assert abs(memory(found, THIRD) - 4 * once) <= 3


def test_job_that_can_never_pass_is_made_once_also_after_it_was_cleared_away() -> None:
    found = started()
    pod_ended(found, said={"reason": "SourceNotFound", "message": "no such model", "retry": False})
    job_ended(found, "Failed")
    assert reconcile(found) is None
    assert conditions(found) == ("False", "SourceNotFound", "Stalled")
    found.lose("Pod", f"{FIRST}-x")
    found.lose("Job", FIRST)
    found.writes()
    assert reconcile(found) is None
    assert found.writes() == []
    assert conditions(found) == ("False", "SourceNotFound", "Stalled")


def test_job_that_someone_deleted_is_made_again() -> None:
    found = started()
    found.lose("Job", FIRST)
    reconcile(found)
    assert f"apply Job {FIRST}" in found.writes()


def test_artifact_of_a_runtime_that_is_gone_stalls_until_it_is_back() -> None:
    found = world()
    runtime = found.one("EdgeRuntime")
    found.put("Deployment", {"template": {"metadata": {"labels": {"edgemodel.dev/artifact": KEY}}}}, name="d",
              labels={})  # fmt: skip
    found.lose("EdgeRuntime", "llamacpp", namespace="")
    reconcile(found)
    assert conditions(found) == ("False", "UnknownRuntime", "Stalled")
    found.see(runtime)
    reconcile(found)
    assert conditions(found) == ("False", "Making", "Reconciling")


# The store


@pytest.mark.parametrize(
    ("name", "error", "expected"),
    [
        ("for now", TransientError("503"), ("False", "StoreUnavailable", "Reconciling")),
        ("at all", DeniedError("403"), ("False", "StoreDenied", "Stalled")),
    ],
)
def test_store_that_does_not_answer(name: str, error: StoreError, expected: tuple[str, str, str]) -> None:
    found = world()
    found.store.failure = error
    assert reconcile(found) == 30.0
    assert conditions(found) == expected, name
    found.store.failure = None
    reconcile(found)
    assert conditions(found) == ("False", "Making", "Reconciling")


def test_artifact_that_was_published_while_the_store_denied_us_is_found_in_the_end() -> None:
    found = started()
    found.store.failure = DeniedError("403")
    job_ended(found, "Complete")
    reconcile(found)
    assert conditions(found) == ("False", "StoreDenied", "Stalled")
    found.lose("Job", FIRST)
    found.store.failure = None
    found.store.published = manifest(KEY)
    reconcile(found)
    assert conditions(found) == ("True", "Published", "")


def test_refusal_of_the_api_server_is_told_and_tried_again() -> None:
    found = world()
    found.client.refusals["apply Job"] = Forbidden(403, "Forbidden", "exceeded quota")
    with pytest.raises(Forbidden):
        reconcile(found)
    assert conditions(found) == ("False", "Forbidden", "Reconciling")


# Gone


def test_artifact_that_nobody_wants_goes_job_first_then_store_then_record() -> None:
    found = started()
    found.lose("EdgeModel", "m")
    reconcile(found)
    assert found.writes() == [f"delete ModelArtifact {KEY}"]
    reconcile(found)
    assert found.writes() == [f"delete Foreground Job {FIRST}"]
    reconcile(found)
    assert found.writes() == [], "the Job's pod may still write"
    found.lose("Job", FIRST)
    reconcile(found)
    assert found.writes() == ["store remove cluster.retail", f"merge ModelArtifact {KEY}"]
    assert found.all("ModelArtifact") == []


def test_record_stays_until_the_store_has_let_go() -> None:
    found = world()
    found.lose("EdgeModel", "m")
    reconcile(found)
    found.store.failure = TransientError("503")
    assert reconcile(found) == 30.0
    assert conditions(found) == ("False", "StoreUnavailable", "Reconciling")
    assert found.one("ModelArtifact")["metadata"]["finalizers"] == [FINALIZER]
    found.store.failure = None
    reconcile(found)
    assert found.all("ModelArtifact") == []


def test_finalizers_of_others_stay() -> None:
    found = world()
    found.change("ModelArtifact", KEY, metadata={"name": KEY, "namespace": "retail", "finalizers": [FINALIZER, "x/y"]})
    found.lose("EdgeModel", "m")
    reconcile(found)
    reconcile(found)
    assert found.one("ModelArtifact")["metadata"]["finalizers"] == ["x/y"]


@pytest.mark.parametrize(
    ("name", "spec", "wanted"),
    [
        ("the same", {}, True),
        ("another scheme", {"variants": [{"name": "cpu", "quantization": {"scheme": "Q8_0"}}]}, False),
        ("two schemes", {"variants": [{"name": "a", "quantization": {"scheme": "Q8_0"}}, {"name": "b"}]}, True),
        ("another revision", {"source": {"uri": "hf://HuggingFaceTB/SmolLM2-135M-Instruct", "revision": "v2"}}, False),
        ("another source", {"source": {"uri": "hf://a/b"}}, False),
        ("whatever there is hardware for", {"variants": None}, True),
    ],
)
def test_artifact_is_wanted_by_a_model_of(name: str, spec: Object, wanted: bool) -> None:
    found = world()
    changed = {field: value for field, value in (MODEL | spec).items() if value is not None}
    found.change("EdgeModel", "m", spec=changed)
    reconcile(found)
    assert (f"delete ModelArtifact {KEY}" not in found.writes()) is wanted, name


@pytest.mark.parametrize(
    ("name", "uri", "digest", "wanted"),
    [
        ("the same files elsewhere", COPY, model_artifact().spec.resolved.digest, True),
        ("other files elsewhere", COPY, OTHER_DIGEST, False),
        ("the same files where it read before", "s3://bucket/before", model_artifact().spec.resolved.digest, False),
    ],
)
def test_artifact_is_wanted_by_a_model_that_reads(name: str, uri: str, digest: str, wanted: bool) -> None:
    found = world()
    found.lose("EdgeModel", "m")
    source = model_artifact().spec.resolved.dump() | {"digest": digest, "uri": uri}
    status = {"source": source, "variants": [{"name": "cpu", "artifact": {"key": KEY}}]}
    found.put("EdgeModel", MODEL | {"source": {"uri": COPY}}, name="copy", status=status)
    reconcile(found)
    assert (f"delete ModelArtifact {KEY}" not in found.writes()) is wanted, name


def serving(found: World, kind: str) -> None:
    template = {"metadata": {"labels": {"edgemodel.dev/artifact": KEY}}}
    if kind == "Pod":
        found.put("Pod", {}, name="x", labels=template["metadata"]["labels"], status={})
    else:
        found.put(kind, {"template": template}, name="x", labels={})


@pytest.mark.parametrize("kind", ["Deployment", "DaemonSet", "Pod"])
def test_artifact_stays_while_it_is_served(kind: str) -> None:
    found = world(**published().status.dump())
    found.lose("EdgeModel", "m")
    serving(found, kind)
    reconcile(found)
    assert found.writes() == []
    found.lose(kind, "x")
    reconcile(found)
    assert found.writes() == [f"delete ModelArtifact {KEY}"]


def test_evicted_pod_that_stays_as_a_record_keeps_no_artifact() -> None:
    found = world(**published().status.dump())
    found.lose("EdgeModel", "m")
    serving(found, "Pod")
    found.change("Pod", "x", status={"phase": "Failed", "reason": "Evicted"})
    reconcile(found)
    assert found.writes() == [f"delete ModelArtifact {KEY}"]


def test_model_that_is_on_its_way_out_wants_nothing() -> None:
    found = world()
    found.change("EdgeModel", "m", metadata={**found.one("EdgeModel")["metadata"], "deletionTimestamp": ago(1)})
    reconcile(found)
    assert found.writes() == [f"delete ModelArtifact {KEY}"]


def test_model_of_another_namespace_wants_nothing_here() -> None:
    found = world()
    found.lose("EdgeModel", "m")
    found.put("EdgeModel", MODEL, name="m", namespace="other", status={"observedGeneration": -1})
    reconcile(found)
    assert found.writes() == [f"delete ModelArtifact {KEY}"]
