"""The EdgeModel controller: from what the user wants to pods that serve it.

A reconcile is a list of steps over one scope: each adds to what is known or does what is missing, and none waits. The
status is computed at the end, always, and written once.
"""

from collections.abc import Awaitable, Callable

from pydantic import ValidationError

from edgemodel.api.artifact import ModelArtifact, ResolvedSource
from edgemodel.api.model import EdgeModel, SourceStatus
from edgemodel.controllers.context import Context, EventType, api_problem, now, timestamp
from edgemodel.controllers.resources import BY_MODEL, BY_SOURCE
from edgemodel.core.conditions import find, stalled
from edgemodel.core.keys import SourceRequest, answered_request, source_request, source_status
from edgemodel.core.making import seconds_until
from edgemodel.core.model_status import (
    ModelScope,
    VariantScope,
    artifact_problem,
    model_status,
    quality_problem,
    variant_problem,
)
from edgemodel.core.objects import (
    ATTEMPT_LABEL,
    ROLE_LABEL,
    VARIANT_LABEL,
    model_artifact,
    resolver_pod,
    service,
    workload,
)
from edgemodel.core.plan import Choice, decide
from edgemodel.core.problem import Problem, pod_problem, termination_message
from edgemodel.engine.errors import ApiError
from edgemodel.engine.objects import Key, Object, Ref

WORKLOADS = ("Deployment", "DaemonSet")


class EdgeModelController:
    """Reconciles EdgeModels."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def reconcile(self, key: Key) -> float | None:
        """Brings one EdgeModel closer to what it asks for. Seconds after which to look again if nothing wakes it."""
        observed = self._context.cache.get("EdgeModel", key.namespace, key.name)
        if observed is None or "deletionTimestamp" in observed["metadata"]:
            return None  # its children go with it; artifacts look after themselves
        scope = ModelScope(EdgeModel.model_validate(observed))
        steps: tuple[Callable[[ModelScope], Awaitable[float | None]], ...] = (
            self._decide,
            self._observe_pods,
            self._resolve_source,
            self._want_artifacts,
            self._roll_out,
            self._expose,
            self._remove_what_is_left_over,
        )
        again: list[float] = []
        failure: ApiError | None = None
        for step in steps:
            try:
                after = await step(scope)
            except ApiError as error:
                problem = api_problem(error)
                if problem is None:
                    raise
                scope.problems.append(problem)
                failure = error
                break
            if after is not None:
                again.append(after)
        await self._write_status(observed, scope)
        if failure is not None:
            raise failure  # the status says it; the queue tries again, ever later
        return min(again, default=None)

    # Steps

    async def _decide(self, scope: ModelScope) -> None:
        scope.source = self._known_source(scope.model)
        self._choose(scope)

    def _choose(self, scope: ModelScope) -> None:
        found = scope.source.format if scope.source else ""
        decisions = decide(scope.model.spec, self._context.landscape(), found)
        scope.variants = [VariantScope(decision) for decision in decisions]

    async def _observe_pods(self, scope: ModelScope) -> None:
        """What serves now: known before anything is written, so that the status says it also after an error."""
        pods = self._children("Pod", scope.model)
        workloads = [child for kind in WORKLOADS for child in self._children(kind, scope.model)]
        for variant in scope.variants:
            name = variant.decision.variant.name
            mine = [child for child in workloads if child["metadata"]["labels"].get(VARIANT_LABEL) == name]
            kind = "DaemonSet" if variant.decision.variant.per_node else "Deployment"
            variant.workload = next((child for child in mine if child["kind"] == kind), None)
            variant.pods = [pod for pod in pods if pod["metadata"]["labels"].get(VARIANT_LABEL) == name]

    async def _resolve_source(self, scope: ModelScope) -> float | None:
        model = scope.model
        pods = [pod for pod in self._children("Pod", model) if pod["metadata"]["labels"].get(ROLE_LABEL) == "resolve"]
        again = None
        if scope.source is None and any(isinstance(variant.decision, Choice) for variant in scope.variants):
            again, pods = await self._ask_resolver(scope, pods)
            if scope.source is not None:  # and with it is known what runtimes must read
                self._choose(scope)
                await self._observe_pods(scope)
        for pod in pods if scope.source is None or scope.source == model.status.source else ():
            await self._context.applier.delete(Ref.of(pod))
        return again

    async def _want_artifacts(self, scope: ModelScope) -> None:
        namespace = scope.model.metadata.namespace
        for variant in scope.variants:
            if scope.source is None or not isinstance(variant.decision, Choice):
                continue
            variant.key = variant.decision.key(scope.source)
            found = self._context.cache.get("ModelArtifact", namespace, variant.key)
            if found is None:
                wanted = model_artifact(scope.model, variant.decision, _plain(scope.source))
                found = await self._context.applier.ensure(wanted)
            if "deletionTimestamp" not in found["metadata"]:
                variant.artifact = ModelArtifact.model_validate(found)

    async def _roll_out(self, scope: ModelScope) -> None:
        """Pods for each artifact that is there and good enough. Until then the old ones stay as they are."""
        for variant in scope.variants:
            artifact = variant.artifact
            if (
                isinstance(variant.decision, Choice)
                and scope.source is not None
                and artifact is not None
                and artifact_problem(artifact) is None
                and quality_problem(scope.model, artifact) is None
            ):
                wanted = workload(scope.model, variant.decision, artifact, scope.source, self._context.settings)
                variant.workload = await self._context.applier.ensure(wanted)

    async def _expose(self, scope: ModelScope) -> None:
        if any(variant.workload is not None for variant in scope.variants):
            await self._context.applier.ensure(service(scope.model))

    async def _remove_what_is_left_over(self, scope: ModelScope) -> None:
        """Workloads of variants that are gone; one of the other kind once the new one serves in its place."""
        variants = {variant.decision.variant.name: variant for variant in scope.variants}
        for kind in WORKLOADS:
            for child in self._children(kind, scope.model):
                variant = variants.get(child["metadata"]["labels"].get(VARIANT_LABEL, ""))
                if variant is None or (
                    variant.workload is not None
                    and variant.workload["kind"] != kind
                    and variant_problem(scope, variant) is None
                ):
                    await self._context.applier.delete(Ref.of(child))

    # Source

    def _known_source(self, model: EdgeModel) -> SourceStatus | None:
        """The answer that we have: our own, or that of another EdgeModel which asked the same."""
        request = source_request(model.spec.source)
        own = model.status.source
        if own is not None and answered_request(own) == request:
            return own
        for ref in self._context.cache.by_index(
            "ModelArtifact", BY_SOURCE, f"{model.metadata.namespace}/{request.uri}"
        ):
            found = self._context.cache.get(*ref)
            artifact = ModelArtifact.model_validate(found) if found else None
            if artifact and source_request(artifact.spec.source) == request:
                return source_status(artifact.spec.resolved, request)
        return None

    async def _ask_resolver(self, scope: ModelScope, pods: list[Object]) -> tuple[float | None, list[Object]]:
        """Sees to it that a resolver runs, or takes its answer. Returns when to look again, and which pods can go."""
        settings = self._context.settings
        current = resolver_pod(scope.model, 1, settings)["metadata"]["name"].removesuffix("1")
        mine = {
            int(pod["metadata"]["labels"][ATTEMPT_LABEL]): pod
            for pod in pods
            if pod["metadata"]["name"].startswith(current) and "deletionTimestamp" not in pod["metadata"]
        }
        attempt = max(mine, default=0)
        stale = [pod for pod in pods if pod is not mine.get(attempt)]
        if not attempt:
            await self._context.applier.ensure(resolver_pod(scope.model, 1, settings))
            return None, stale
        pod = mine[attempt]
        if pod["status"].get("phase") == "Succeeded":
            said = termination_message(pod) or {}
            scope.source = _answer(said, source_request(scope.model.spec.source))
            if scope.source is None:
                scope.source_problem = Problem.stalling(
                    "ResolverAnswer", f"pod {pod['metadata']['name']} answered what this version can't read"
                )
            return None, []
        problem = pod_problem(pod)
        if problem is None or pod["status"].get("phase") != "Failed":
            scope.source_problem = problem
            return None, stale
        if problem.policy == "stalling":
            name = pod["metadata"]["name"]
            scope.source_problem = Problem.stalling(
                problem.reason, f"{problem.message}. When that is mended: kubectl delete pod {name}"
            )
            return None, stale
        scope.source_problem = problem
        wait = seconds_until(attempt + 1, _ended(pod), now())
        if wait > 0:
            return wait, stale
        await self._context.applier.ensure(resolver_pod(scope.model, attempt + 1, settings))
        return None, stale

    # Status

    async def _write_status(self, observed: Object, scope: ModelScope) -> None:
        status = model_status(scope, timestamp())
        before = find(scope.model.status.conditions, "Ready")
        after = find(status.conditions, "Ready")
        await self._context.applier.ensure_status(observed, status.dump())
        if after and (before is None or (before.status, before.reason) != (after.status, after.reason)):
            kind: EventType = "Warning" if stalled(status.conditions) else "Normal"
            await self._context.events.emit(observed, after.reason, after.message, kind=kind)
        self._wake_what_is_no_longer_wanted(scope)

    def _wake_what_is_no_longer_wanted(self, scope: ModelScope) -> None:
        wanted = {variant.key for variant in scope.variants}
        for variant in scope.model.status.variants:
            if variant.artifact is not None and variant.artifact.key not in wanted:
                self._context.wake(scope.model.metadata.namespace, variant.artifact.key)

    def _children(self, kind: str, model: EdgeModel) -> list[Object]:
        cache = self._context.cache
        refs = cache.by_index(kind, BY_MODEL, f"{model.metadata.namespace}/{model.metadata.name}")
        return [child for child in (cache.get(*ref) for ref in refs) if child is not None]


def _plain(source: SourceStatus) -> ResolvedSource:
    return ResolvedSource.model_validate(source.dump())


def _answer(said: dict[str, object], request: SourceRequest) -> SourceStatus | None:
    try:
        return source_status(ResolvedSource.model_validate(said), request)
    except ValidationError:
        return None


def _ended(pod: Object) -> str:
    """When the pod's container ended; of a pod that no kubelet would start, when it was made."""
    for container in pod["status"].get("containerStatuses", ()):
        ended = container.get("state", {}).get("terminated")
        if ended:
            return str(ended.get("finishedAt", ""))
    return str(pod["metadata"].get("creationTimestamp", ""))
