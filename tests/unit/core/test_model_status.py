"""Every stage of an EdgeModel's life, as its status tells it."""

from typing import Any

import pytest

from edgemodel.api.artifact import ModelArtifact, QualityReport
from edgemodel.api.model import EdgeModel, EdgeModelStatus, SourceStatus
from edgemodel.core.model_status import ModelScope, VariantScope, model_status, quality_problem
from edgemodel.core.plan import Choice, decide
from edgemodel.core.problem import Problem
from tests.unit.core.kstatus import Kstatus, kstatus
from tests.unit.core.samples import (
    ARM,
    DIGEST,
    NOW,
    OTHER_DIGEST,
    URI,
    X86,
    condition,
    edge_model,
    landscape,
    model_artifact,
    node,
    published,
    recipe,
    resolved,
    runtime,
)

SOURCE = SourceStatus.model_validate(resolved().dump() | {"uri": URI, "requestedRevision": "main"})
CLUSTER = landscape((runtime(hardware={"x86-64": 100, "arm64": 50}),), (X86, ARM), (node(),))
CPU = {"name": "cpu", "hardware": "x86-64"}
BIG = {"name": "big", "quantization": {"scheme": "Q8_0"}}
LOST = {"name": "lost", "hardware": "arm64", "runtime": "llamacpp"}
WRONG = {"name": "wrong", "runtime": "vllm"}
KEY = published().spec.key
STUCK = [condition("Ready", "False", "SourceNotFound", "no such model"), condition("Stalled", "True", "SourceNotFound",
                                                                                   "no such model")]  # fmt: skip


def workload(ready: int = 1, desired: int = 1, key: str = KEY, kind: str = "Deployment") -> dict[str, Any]:
    return {
        "kind": kind,
        "metadata": {"generation": 1},
        "spec": {"replicas": desired, "template": {"metadata": {"labels": {"edgemodel.dev/artifact": key}}}},
        "status": {"observedGeneration": 1, "replicas": desired, "updatedReplicas": desired, "readyReplicas": ready},
    }


def given_up(generation: int = 1, **fields: Any) -> dict[str, Any]:
    """Its controller has seen no progress for the time that it has."""
    found = workload(ready=0, **fields)
    found["metadata"]["generation"] = generation
    found["spec"]["progressDeadlineSeconds"] = 1200
    found["status"]["conditions"] = [
        {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "no progress"}
    ]
    return found


def pod(key: str = KEY, **fields: Any) -> dict[str, Any]:
    crashed = {"exitCode": 1, "reason": "Error"}
    status = {"phase": "Running", "containerStatuses": [{"state": {"terminated": crashed}}]}
    metadata = {"name": "p", "labels": {"edgemodel.dev/artifact": key}} | fields
    return {"metadata": metadata, "status": status}


def ended(code: int, **fields: str) -> dict[str, Any]:
    return pod() | {"status": {"containerStatuses": [{"state": {"terminated": {"exitCode": code} | fields}}]}}


LOST_ARTIFACT = '{"reason": "ArtifactNotFound", "message": "no artifact k", "retry": false}'
EVICTED = pod() | {
    "status": {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: ephemeral-storage."}
}
COMING = pod() | {"status": {"phase": "Pending"}}
OLD = pod("before") | {"status": {"phase": "Running"}}
HOMELESS = pod() | {
    "status": {"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"}]}
}


def gated(minimum: str | None, *variants: dict[str, Any]) -> EdgeModel:
    gate: dict[str, Any] = {"quality": {"minAccuracy": minimum}} if minimum else {}
    return edge_model(*variants, **gate)


def scope(
    *variants: dict[str, Any],
    source: SourceStatus | None = SOURCE,
    source_problem: Problem | None = None,
    artifact: ModelArtifact | None = None,
    served: dict[str, Any] | None = None,
    pods: tuple[dict[str, Any], ...] = (),
    problems: tuple[Problem, ...] = (),
    minimum: str | None = None,
) -> ModelScope:
    """Each variant in the same state; those that are undecided have neither key nor artifact."""
    model = gated(minimum, *variants)
    found = []
    for decision in decide(model.spec, CLUSTER if variants else landscape()):
        decided = isinstance(decision, Choice) and source is not None
        key = decision.key(source) if isinstance(decision, Choice) and source is not None else ""
        found.append(VariantScope(decision, key, artifact if decided else None, served if decided else None, pods))
    return ModelScope(model, source, source_problem, found, list(problems))


@pytest.mark.parametrize(
    ("name", "observed", "reason", "expected", "told"),
    [
        ("the source is being read", scope(CPU, source=None), "ResolvingSource", "InProgress",
         "variant cpu: the source is being read"),
        ("the source is not there", scope(CPU, source=None, source_problem=Problem.stalling("SourceNotFound", "404")),
         "SourceNotFound", "Failed", "variant cpu: 404"),
        ("the hub does not answer", scope(CPU, source=None, source_problem=Problem.retrying("HubUnavailable", "503")),
         "HubUnavailable", "InProgress", "variant cpu: 503"),
        ("no node is of the class", scope(LOST), "NoNode", "InProgress", "waiting for one to join"),
        ("no variant comes of the cluster", scope(), "NoNode", "InProgress",
         "no node is of a hardware class that an EdgeRuntime serves"),
        ("a variant asks for what is not there", scope(WRONG), "UnknownRuntime", "Failed", "there are: llamacpp"),
        ("the artifact is not there yet", scope(CPU), "MakingArtifact", "InProgress", "the artifact is asked for"),
        ("the artifact is new", scope(CPU, artifact=model_artifact()), "MakingArtifact", "InProgress",
         "(Q4_K_M) is being made: Queued"),
        ("the artifact is being made",
         scope(CPU, artifact=model_artifact(observedGeneration=1, progress={"step": "Evaluate", "percent": 40})),
         "MakingArtifact", "InProgress", "is being made: Evaluate"),
        ("the artifact cannot be made", scope(CPU, artifact=model_artifact(conditions=STUCK)), "SourceNotFound",
         "Failed", "variant cpu: no such model"),
        ("the artifact is too bad", scope(CPU, artifact=published("0.9"), minimum="0.95"), "QualityTooLow", "Failed",
         "Q4_K_M keeps 0.9 of the unquantized model's accuracy"),
        ("the artifact is just good enough", scope(CPU, artifact=published("0.95"), minimum="0.950"), "RollingOut",
         "InProgress", "pods are asked for"),
        ("pods come up", scope(CPU, artifact=published(), served=workload(ready=1, desired=2)), "RollingOut",
         "InProgress", "variant cpu: 1 of 2 pods are ready"),
        ("pods of the version before still serve", scope(CPU, artifact=published(), served=workload(key="before")),
         "RollingOut", "InProgress", "1 of 1 pods are ready"),
        ("a new pod fails", scope(CPU, artifact=published(), served=workload(ready=0), pods=(pod(),)),
         "ContainerFailed", "InProgress", "pod p: a container ended with exit code 1"),
        ("a pod of the version before fails",
         scope(CPU, artifact=published(), served=workload(ready=0), pods=(pod("before"),)),
         "RollingOut", "InProgress", "0 of 1 pods are ready"),
        ("a pod that is on its way out fails",
         scope(CPU, artifact=published(), served=workload(ready=0), pods=(pod(deletionTimestamp=NOW),)),
         "RollingOut", "InProgress", "0 of 1 pods are ready"),
        ("a pod was evicted and the one in its place is coming",
         scope(CPU, artifact=published(), served=workload(ready=0), pods=(EVICTED, COMING)),
         "RollingOut", "InProgress", "0 of 1 pods are ready"),
        ("a pod was evicted and none is in its place yet",
         scope(CPU, artifact=published(), served=workload(ready=0), pods=(EVICTED,)),
         "DiskFull", "Failed", "pod p was evicted: The node was low on resource: ephemeral-storage"),
        ("a new pod fails, again and again",
         scope(CPU, artifact=published(), served=given_up(), pods=(pod(),)), "ContainerFailed", "Failed",
         "pod p: a container ended with exit code 1; no pod more has become ready in 1200 s"),
        ("a new pod needs more memory than it may have",
         scope(CPU, artifact=published(), served=workload(ready=0), pods=(ended(137, reason="OOMKilled"),)),
         "OutOfMemory", "InProgress", "more memory than its limit: raise resources.memory of the variant"),
        ("the store has lost the artifact",
         scope(CPU, artifact=published(), served=workload(ready=0), pods=(ended(1, message=LOST_ARTIFACT),)),
         "ArtifactNotFound", "Failed", "no artifact k: delete the ModelArtifact"),
        ("a new pod never becomes ready, and does not say why",
         scope(CPU, artifact=published(), served=given_up(), pods=(COMING,)), "NotAnswering", "Failed",
         "0 of 1 pods are ready, and no pod more has become ready in 1200 s: the logs of the others say why"),
        ("a pod has waited for room for very long",
         scope(CPU, artifact=published(), served=given_up(), pods=(HOMELESS,)), "Unschedulable", "InProgress",
         "fits no node yet"),
        ("a new pod finds no room beside the one that it replaces",
         scope(CPU, artifact=published(), served=workload(ready=0), pods=(HOMELESS, OLD)),
         "Unschedulable", "InProgress",
         "0/1 nodes are available; if it lacks the room of the pod that it replaces, serving.rollout: Replace"),
        ("the version before had been given up, and the new one has not been looked at yet",
         scope(CPU, artifact=published(), served=given_up(generation=2)), "RollingOut", "InProgress", "0 of 1"),
        ("the version before had been given up, and the new one is not asked for yet",
         scope(CPU, artifact=published(), served=given_up(key="before")), "RollingOut", "InProgress", "0 of 1"),
        ("a pod failed and all is served again", scope(CPU, artifact=published(), served=workload(), pods=(pod(),)),
         "Serving", "Current", "every variant answers"),
        ("all pods answer", scope(CPU, artifact=published(), served=workload()), "Serving", "Current",
         "every variant answers"),
        ("no pod is wanted", scope(CPU | {"replicas": 0}, artifact=published(), served=workload(0, 0)), "Serving",
         "Current", "every variant answers"),
        ("the source is not there and no variant comes of the cluster",
         scope(source=None, source_problem=Problem.stalling("SourceNotFound", "404")), "SourceNotFound", "Failed",
         "404"),
        ("the API server refuses an object", scope(problems=(Problem.stalling("Rejected", "422"),)), "Rejected",
         "Failed", "422"),
    ],
)  # fmt: skip
def test_stage_is_told_when(name: str, observed: ModelScope, reason: str, expected: Kstatus, told: str) -> None:
    status = model_status(observed, NOW)
    ready = status.conditions[0]
    assert (ready.type, ready.reason) == ("Ready", reason), name
    assert ready.status == ("True" if expected == "Current" else "False"), name
    assert told in ready.message, name
    seen = {"metadata": {"generation": 3}, "status": status.dump()}
    assert kstatus(seen) == expected, name
    assert EdgeModelStatus.model_validate(status.dump()) == status


def test_variant_that_serves_and_one_that_waits_make_the_model_not_ready() -> None:
    observed = scope(CPU, LOST, artifact=published(), served=workload())
    status = model_status(observed, NOW)
    assert [(item.name, item.state) for item in status.variants] == [("cpu", "Serving"), ("lost", "NoNode")]
    assert status.ready_variants == "1/2"
    assert status.conditions[0].status == "False"
    assert status.endpoint == "http://smollm2.retail.svc/v1", "what is up can be used"


def test_stalled_variant_outweighs_one_that_is_under_way() -> None:
    status = model_status(scope(CPU, WRONG), NOW)
    assert [(item.type, item.reason) for item in status.conditions] == [
        ("Ready", "UnknownRuntime"),
        ("Stalled", "UnknownRuntime"),
    ]
    assert status.conditions[0].message.startswith("variant cpu: the artifact is asked for; variant wrong: there is no")


def test_gate_holds_back_only_the_variant_that_fails_it() -> None:
    observed = scope(CPU, BIG, minimum="0.95")
    for variant, accuracy, how in zip(
        observed.variants, ("0.9", "0.99"), (recipe(), recipe(scheme="Q8_0")), strict=True
    ):
        variant.artifact = published(accuracy, how)
        variant.workload = workload(key=variant.key)
    status = model_status(observed, NOW)
    assert [(item.name, item.state) for item in status.variants] == [("cpu", "QualityTooLow"), ("big", "Serving")]
    assert "choose a scheme with more bits, or lower the bar" in status.variants[0].message


def test_line_of_a_variant_tells_what_it_is_and_how_good() -> None:
    (line,) = model_status(scope(CPU, artifact=published(), served=workload(1, 2)), NOW).variants
    told = line.dump()
    assert told | {"chosen": "", "message": "", "quality": None} == {
        "name": "cpu",
        "runtime": "llamacpp",
        "hardware": "x86-64",
        "scheme": "Q4_K_M",
        "chosen": "",
        "artifact": {"key": KEY, "digest": OTHER_DIGEST, "bytes": 105_000_000},
        "quality": None,
        "replicas": {"desired": 2, "updated": 2, "ready": 1},
        "state": "RollingOut",
        "message": "",
    }
    assert line.quality is not None
    assert line.quality.accuracy == "0.9812"
    assert line.chosen.startswith("runtime llamacpp serves it best; hardware x86-64 as asked")


def test_line_of_an_undecided_variant_says_only_why() -> None:
    (line,) = model_status(scope(WRONG), NOW).variants
    assert (line.runtime, line.hardware, line.scheme, line.artifact) == ("", "", "", None)
    assert "there is no EdgeRuntime 'vllm'" in line.message


@pytest.mark.parametrize(
    ("name", "observed", "ready", "summary", "endpoint"),
    [
        ("no pods are there", scope(CPU, artifact=published()), "0/1", "Q4_K_M", ""),
        ("all is up", scope(CPU, artifact=published(), served=workload()), "1/1", "Q4_K_M",
         "http://smollm2.retail.svc/v1"),
        ("schemes differ", scope(BIG, CPU), "0/2", "Q4_K_M,Q8_0", ""),
        ("nothing could be decided", scope(WRONG), "0/1", "", ""),
        ("there is no variant", scope(), "0/0", "", ""),
    ],
)  # fmt: skip
def test_printed_columns_when(name: str, observed: ModelScope, ready: str, summary: str, endpoint: str) -> None:
    status = model_status(observed, NOW)
    assert (status.ready_variants, status.summary, status.endpoint) == (ready, summary, endpoint), name


def test_source_is_kept_in_the_status() -> None:
    status = model_status(scope(CPU), NOW)
    assert status.source == SOURCE
    assert status.observed_generation == 3


def test_long_reasons_are_cut_to_what_the_status_takes() -> None:
    observed = scope(CPU, source=None, source_problem=Problem.stalling("SourceNotFound", "x" * 5000))
    status = model_status(observed, NOW)
    assert len(status.variants[0].message) == 1024


@pytest.mark.parametrize(
    ("name", "minimum", "artifact", "reason"),
    [
        ("there is no gate", None, published("0.1"), None),
        ("there is no gate and no report", None, model_artifact(), None),
        ("it is better", "0.95", published("0.9812"), None),
        ("it is just good enough, written otherwise", "0.950000", published("0.95"), None),
        ("it is worse by the last digit", "0.9501", published("0.9500"), "QualityTooLow"),
        ("it is better than the unquantized model", "1.0", published("1.0200"), None),
        ("nobody knows", "0", model_artifact(), "QualityUnknown"),
    ],
)
def test_gate_judges_an_artifact_when(
    name: str, minimum: str | None, artifact: ModelArtifact, reason: str | None
) -> None:
    problem = quality_problem(gated(minimum), artifact)
    assert (problem.reason if problem else None) == reason, name
    assert problem is None or problem.policy == "stalling"


def test_embeddings_are_judged_by_their_cosine() -> None:
    report = QualityReport(accuracy="0.9200", cosine="0.9200", least_cosine="0.8000", tokens=4096, text_digest=DIGEST)
    artifact = published()
    status = artifact.status.model_copy(update={"quality": report})
    problem = quality_problem(gated("0.95"), artifact.model_copy(update={"status": status}))
    assert problem is not None
    assert "keeps 0.9200 of the unquantized model's accuracy (mean cosine 0.9200, least 0.8000)" in problem.message
