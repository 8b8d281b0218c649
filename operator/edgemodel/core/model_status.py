"""The status of an EdgeModel, from what was observed: always computed whole, also after an error."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from edgemodel.api.artifact import ModelArtifact
from edgemodel.api.model import ArtifactStatus, EdgeModel, EdgeModelStatus, SourceStatus, VariantStatus
from edgemodel.core.conditions import conditions, find, is_ready, stalled
from edgemodel.core.objects import ARTIFACT_LABEL, endpoint
from edgemodel.core.plan import Choice, Decision, Undecided
from edgemodel.core.problem import Problem, pod_problem
from edgemodel.core.rollout import artifact_of, given_up, is_rolled_out, pods_refused, replicas_of

_TEXT_LIMIT = 1024


@dataclass
class VariantScope:
    """What is known of one variant."""

    decision: Decision
    key: str = ""
    artifact: ModelArtifact | None = None
    workload: Mapping[str, Any] | None = None
    pods: Sequence[Mapping[str, Any]] = ()


@dataclass
class ModelScope:
    """What one reconcile of an EdgeModel has observed so far."""

    model: EdgeModel
    source: SourceStatus | None = None
    source_problem: Problem | None = None
    variants: list[VariantScope] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    """Of the model as a whole, not of a variant."""


def quality_problem(model: EdgeModel, artifact: ModelArtifact) -> Problem | None:
    """Whether the artifact fails the EdgeModel's gate."""
    gate = model.spec.quality
    report = artifact.status.quality
    if gate is None:
        return None
    if report is None:
        return Problem.stalling("QualityUnknown", f"artifact {artifact.spec.key} has no quality report to judge")
    if Decimal(report.accuracy) >= Decimal(gate.min_accuracy):
        return None
    measured = f"perplexity {report.perplexity}, unquantized {report.baseline_perplexity}"
    if report.cosine is not None:
        measured = f"mean cosine {report.cosine}, least {report.least_cosine}"
    return Problem.stalling(
        "QualityTooLow",
        f"{artifact.spec.recipe.scheme} keeps {report.accuracy} of the unquantized model's accuracy ({measured}), "
        f"less than minAccuracy {gate.min_accuracy}: choose a scheme with more bits, or lower the bar",
    )


def artifact_problem(artifact: ModelArtifact | None) -> Problem | None:
    """What keeps the artifact from being served."""
    if artifact is None:
        return Problem.waiting("MakingArtifact", "the artifact is asked for")
    found = artifact.status.conditions
    if is_ready(found):
        return None
    stuck = stalled(found)
    if stuck:
        return Problem.stalling(stuck.reason, stuck.message)
    ready = find(found, "Ready")
    if ready is not None and ready.reason != "Making":  # something is wrong that is tried again, or waited for
        return Problem.retrying(ready.reason, ready.message)
    step = artifact.status.progress.step if artifact.status.progress else "Queued"
    return Problem.waiting(
        "MakingArtifact", f"artifact {artifact.spec.key} ({artifact.spec.recipe.scheme}) is being made: {step}"
    )


_WHERE_PODS_SERVE = {
    "OutOfMemory": "raise resources.memory of the variant, or serving.memoryOverhead of its EdgeRuntime",
    "ArtifactNotFound": "delete the ModelArtifact, and it is made again",
    "ArtifactCorrupt": "delete the ModelArtifact, and it is made again",
}
"""What to do about what a Job or a resolver can meet as well, but must take otherwise."""
_BESIDE_ITS_PREDECESSOR = (
    "if it lacks the room of the pod that it replaces, serving.rollout: Replace lets that go first"
)


def _pods_problem(scope: VariantScope) -> Problem | None:
    staying = [pod for pod in scope.pods if "deletionTimestamp" not in pod["metadata"]]
    pods = [pod for pod in staying if pod["metadata"].get("labels", {}).get(ARTIFACT_LABEL) == scope.key]
    # One that failed for good (evicted, for example) stays as a record; what counts is the one in its place.
    relevant = [pod for pod in pods if pod.get("status", {}).get("phase") != "Failed"] or pods
    problem = next(filter(None, map(pod_problem, relevant)), None)
    if problem is None:
        return None
    if problem.reason == "Unschedulable" and len(staying) > len(pods):
        return replace(problem, message=f"{problem.message}; {_BESIDE_ITS_PREDECESSOR}")
    if problem.reason not in _WHERE_PODS_SERVE:
        return problem
    return replace(problem, message=f"{problem.message}: {_WHERE_PODS_SERVE[problem.reason]}")


def _rollout_problem(scope: VariantScope) -> Problem | None:
    workload = scope.workload
    problem = _pods_problem(scope)
    if workload is None:
        return problem or Problem.waiting("RollingOut", "pods are asked for")
    is_latest = artifact_of(workload) == scope.key
    if is_latest and is_rolled_out(workload):
        return None
    refused = pods_refused(workload)
    if problem is None and refused:
        problem = Problem.waiting("PodsRefused", f"the cluster refuses its pods: {refused}")
    replicas = replicas_of(workload)
    count = f"{replicas.ready} of {replicas.desired} pods are ready"
    if is_latest and given_up(workload):
        waited = f"no pod more has become ready in {workload['spec']['progressDeadlineSeconds']} s"
        if problem is None:
            return Problem.stalling("NotAnswering", f"{count}, and {waited}: the logs of the others say why")
        if problem.policy == "retrying":  # for room or a quota the cluster is waited for, however long that takes
            return Problem.stalling(problem.reason, f"{problem.message}; {waited}")
    return problem or Problem.waiting("RollingOut", count)


def variant_problem(scope: ModelScope, variant: VariantScope) -> Problem | None:
    """What stands between a variant and being served, the first thing first; None when it is."""
    if isinstance(variant.decision, Undecided):
        return variant.decision.problem
    if scope.source is None:
        return scope.source_problem or Problem.waiting("ResolvingSource", "the source is being read")
    problem = artifact_problem(variant.artifact)
    if problem is None and variant.artifact is not None:
        problem = quality_problem(scope.model, variant.artifact)
    return problem or _rollout_problem(variant)


def _variant_status(scope: ModelScope, variant: VariantScope, problem: Problem | None) -> VariantStatus:
    decision = variant.decision
    status: dict[str, Any] = {
        "name": decision.variant.name,
        "state": problem.reason if problem else "Serving",
        "message": problem.message[:_TEXT_LIMIT] if problem else "",
    }
    if isinstance(decision, Choice):
        status |= {
            "runtime": decision.runtime.metadata.name,
            "hardware": decision.hardware,
            "scheme": decision.scheme.name,
            "chosen": decision.why[:_TEXT_LIMIT],
        }
    if variant.key:
        artifact = variant.artifact.status if variant.artifact else None
        status["artifact"] = ArtifactStatus(
            key=variant.key, digest=artifact.digest if artifact else None, bytes=artifact.bytes if artifact else None
        )
        status["quality"] = artifact.quality if artifact else None
        status["performance"] = artifact.performance if artifact else None
    if variant.workload is not None:
        status["replicas"] = replicas_of(variant.workload)
    return VariantStatus.model_validate(status, by_alias=True, by_name=True)


def model_status(scope: ModelScope, now: str) -> EdgeModelStatus:
    """The whole status."""
    model = scope.model
    problems: list[Problem] = list(scope.problems)
    variants: list[VariantStatus] = []
    for variant in scope.variants:
        problem = variant_problem(scope, variant)
        variants.append(_variant_status(scope, variant, problem))
        if problem:
            name = variant.decision.variant.name
            problems.append(Problem(problem.reason, f"variant {name}: {problem.message}", problem.policy))
    if not variants and scope.source_problem:
        problems.append(scope.source_problem)
    if not variants and not problems:
        problems.append(
            Problem.waiting("NoNode", "no node is of a hardware class that an EdgeRuntime serves: waiting for one")
        )
    ready = sum(1 for variant in variants if variant.state == "Serving")
    schemes = sorted({variant.scheme for variant in variants if variant.scheme})
    served = any(variant.workload is not None for variant in scope.variants)
    return EdgeModelStatus(
        observed_generation=model.metadata.generation,
        conditions=conditions(
            problems,
            Problem.waiting("Serving", "every variant answers"),
            model.metadata.generation,
            model.status.conditions,
            now,
        ),
        source=scope.source,
        variants=variants,
        ready_variants=f"{ready}/{len(variants)}",
        summary=",".join(schemes)[:256],
        endpoint=endpoint(model) if served else "",
    )
