"""The ModelArtifact controller: makes an artifact once, keeps its record, and takes it away when nobody wants it."""

from contextlib import suppress
from dataclasses import dataclass

from edgemodel.api.artifact import (
    JobStatus,
    ModelArtifact,
    ModelArtifactStatus,
    PerformanceReport,
    Progress,
    ResolvedSource,
)
from edgemodel.api.base import decimal
from edgemodel.api.model import EdgeModel
from edgemodel.api.runtime import EdgeRuntime, Scheme
from edgemodel.controllers.context import Context, EventType, api_problem, now, store_problem, timestamp
from edgemodel.controllers.resources import BY_ARTIFACT, BY_SOURCE
from edgemodel.core.conditions import conditions, find, is_ready, stalled
from edgemodel.core.keys import answered_request, source_request
from edgemodel.core.making import Failed, Running, Succeeded, next_attempt, outcome, seconds_until
from edgemodel.core.objects import ATTEMPT_LABEL, MEMORY_ATTEMPT_LABEL, STORE_FINALIZER, quantization_job
from edgemodel.core.plan import wanted_keys
from edgemodel.core.problem import Problem
from edgemodel.core.sizing import baseline_bytes
from edgemodel.engine.errors import ApiError, NotFound
from edgemodel.engine.objects import Key, Object, Ref
from edgemodel.store.artifacts import Published
from edgemodel.store.errors import StoreError

PROGRESS_SECONDS = 2.0
"""How often the progress of a running Job is read from the store."""


@dataclass
class Scope:
    """What one reconcile of a ModelArtifact has observed and decided so far."""

    artifact: ModelArtifact
    job: JobStatus | None
    progress: Progress | None = None
    published: Published | None = None
    performance: PerformanceReport | None = None
    problem: Problem | None = None
    again: float | None = None


class ModelArtifactController:
    """Reconciles ModelArtifacts."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def reconcile(self, key: Key) -> float | None:
        """Brings one artifact closer to being in the store, or to being gone."""
        observed = self._context.cache.get("ModelArtifact", key.namespace, key.name)
        if observed is None:
            return None
        artifact = ModelArtifact.model_validate(observed)
        going = artifact.metadata.deletion_timestamp is not None
        if not going and not self._is_wanted(artifact):
            await self._context.applier.delete(Ref.of(observed), artifact.metadata.uid)
            return None
        if not going and is_ready(artifact.status.conditions):
            return None
        scope = Scope(artifact, artifact.status.job)
        failure: ApiError | None = None
        try:
            if going:
                await self._finalize(artifact)
                return None
            await self._make(scope)
        except StoreError as error:
            scope.problem = store_problem(error)
            scope.again = 30.0
        except ApiError as error:
            scope.problem = api_problem(error)
            if scope.problem is None:
                raise
            failure = error
        await self._write_status(observed, scope)
        if failure is not None:
            raise failure
        return scope.again

    async def _make(self, scope: Scope) -> None:
        """In the store already? Then no Job. Else a Job, its progress, and what became of it."""
        artifact = scope.artifact
        store, key = self._context.store, artifact.spec.key
        runtime = self._context.landscape().runtimes.get(artifact.spec.runtime)
        scheme = _scheme(runtime, artifact.spec.recipe.scheme)
        job = self._job(artifact)
        if job is None:
            stuck = stalled(artifact.status.conditions)
            if stuck and scope.job is not None and scope.job.failed:  # and was cleared away
                scope.problem = Problem.stalling(stuck.reason, stuck.message)
                return
            await self._context.ask_store(lambda: store.add_reference(key, self._owner(artifact)))
            await self._look_for(scope)
            if scope.published is None:
                await self._start(scope, runtime, scheme, scope.job or JobStatus(name="", attempt=1))
            return
        scope.job = _job_status(job)
        match outcome(job, self._pods(artifact, job)):
            case Running(problem):
                scope.problem = problem
                scope.progress = await self._context.ask_store(lambda: store.read_progress(key))
                scope.again = PROGRESS_SECONDS
            case Succeeded():
                await self._look_for(scope)
                if scope.published is None:
                    scope.job = _for_good(scope.job)
                    scope.problem = Problem.stalling(
                        "NotPublished", "the Job ended well but the store has no whole artifact of this key"
                    )
            case Failed(problem, at):
                following = next_attempt(scope.job, problem)
                if isinstance(following, Problem):
                    scope.job = _for_good(scope.job)
                    scope.problem = following
                    return
                scope.problem = problem
                scope.again = seconds_until(following.attempt, at, now())
                if scope.again <= 0:
                    scope.again = None
                    await self._start(scope, runtime, scheme, following)
                    await self._context.applier.delete(Ref.of(job), propagation="Background")

    async def _start(
        self, scope: Scope, runtime: EdgeRuntime | None, scheme: Scheme | None, attempt: JobStatus
    ) -> None:
        artifact = scope.artifact
        if runtime is None or scheme is None:
            scope.problem = Problem.stalling(
                "UnknownRuntime",
                f"EdgeRuntime {artifact.spec.runtime!r} with scheme {artifact.spec.recipe.scheme!r} is gone",
            )
            return
        wanted = quantization_job(
            artifact, runtime, scheme, attempt.attempt, attempt.memory_attempt, self._context.settings
        )
        await self._context.applier.ensure(wanted)
        scope.job = attempt.model_copy(update={"name": wanted["metadata"]["name"]})
        scope.again = PROGRESS_SECONDS

    async def _look_for(self, scope: Scope) -> None:
        """The artifact in the store, if every byte of it is there, and what was measured of it."""
        store, key = self._context.store, scope.artifact.spec.key

        def look() -> tuple[Published | None, PerformanceReport | None]:
            found = store.read_manifest(key)
            return (found, store.read_performance(key)) if found and store.is_whole(found.manifest) else (None, None)

        scope.published, scope.performance = await self._context.ask_store(look)

    async def _finalize(self, artifact: ModelArtifact) -> None:
        """The Job first, so that nothing is written after it; then the store; then the record itself."""
        if STORE_FINALIZER not in artifact.metadata.finalizers:
            return
        namespace, key = artifact.metadata.namespace, artifact.spec.key
        for ref in self._context.cache.by_index("Job", BY_ARTIFACT, f"{namespace}/{key}"):
            await self._context.applier.delete(ref, propagation="Foreground")
        if self._context.cache.by_index("Job", BY_ARTIFACT, f"{namespace}/{key}"):
            return  # its end wakes us
        owner = self._owner(artifact)
        await self._context.ask_store(lambda: self._context.store.remove(key, owner))
        rest = [finalizer for finalizer in artifact.metadata.finalizers if finalizer != STORE_FINALIZER]
        patch = {"metadata": {"finalizers": rest, "resourceVersion": artifact.metadata.resource_version}}
        with suppress(NotFound):
            await self._context.client.merge(Ref("ModelArtifact", namespace, artifact.metadata.name), patch)

    async def _write_status(self, observed: Object, scope: Scope) -> None:
        artifact = scope.artifact
        problems = [scope.problem] if scope.problem else []
        if scope.published is None and not problems:
            step = scope.progress.step if scope.progress else "Queued"
            problems.append(Problem.waiting("Making", f"{artifact.spec.recipe.scheme}: {step}"))
        status = ModelArtifactStatus(
            observed_generation=artifact.metadata.generation,
            conditions=conditions(
                problems,
                Problem.waiting("Published", "the artifact is in the object store, whole"),
                artifact.metadata.generation,
                artifact.status.conditions,
                timestamp(),
            ),
            job=scope.job,
            progress=scope.progress,
        )
        if scope.published is not None:
            manifest = scope.published.manifest
            size = sum(file.bytes for file in manifest.files)
            baseline = manifest.baseline_bytes or baseline_bytes(manifest.source.model)
            status = status.model_copy(
                update={
                    "digest": scope.published.digest,
                    "entrypoint": manifest.entrypoint,
                    "bytes": size,
                    "baseline_bytes": baseline,
                    "compression": decimal(baseline / size if size else 0, 2),
                    "quality": manifest.quality,
                    "performance": scope.performance,
                }
            )
        before, after = find(artifact.status.conditions, "Ready"), find(status.conditions, "Ready")
        await self._context.applier.ensure_status(observed, status.dump())
        if after and (before is None or (before.status, before.reason) != (after.status, after.reason)):
            kind: EventType = "Warning" if stalled(status.conditions) else "Normal"
            await self._context.events.emit(observed, after.reason, after.message, kind=kind)

    # What is there

    def _is_wanted(self, artifact: ModelArtifact) -> bool:
        """Whether an EdgeModel wants it or pods still serve it."""
        cache, namespace = self._context.cache, artifact.metadata.namespace
        if any(
            cache.by_index(kind, BY_ARTIFACT, f"{namespace}/{artifact.spec.key}")
            for kind in ("Deployment", "DaemonSet")
        ):
            return True
        if any(pod["status"].get("phase") not in ("Failed", "Succeeded") for pod in self._pods(artifact, None)):
            return True
        refs = {
            *cache.by_index("EdgeModel", BY_SOURCE, f"{namespace}/{artifact.spec.source.uri}"),
            *cache.by_index("EdgeModel", BY_ARTIFACT, f"{namespace}/{artifact.spec.key}"),
        }
        for found in filter(None, (cache.get(*ref) for ref in refs)):
            if "deletionTimestamp" in found["metadata"]:
                continue
            model = EdgeModel.model_validate(found)
            source = _source_of(model, artifact)
            if source and artifact.spec.key in wanted_keys(model.spec, source, self._context.landscape()):
                return True
        return False

    def _job(self, artifact: ModelArtifact) -> Object | None:
        """The latest attempt's Job."""
        cache = self._context.cache
        refs = cache.by_index("Job", BY_ARTIFACT, f"{artifact.metadata.namespace}/{artifact.spec.key}")
        jobs = [job for job in (cache.get(*ref) for ref in refs) if job is not None]
        return max(jobs, key=lambda job: _job_status(job).attempt, default=None)

    def _pods(self, artifact: ModelArtifact, job: Object | None) -> list[Object]:
        """Pods of the Job; without one, pods that serve the artifact."""
        cache = self._context.cache
        refs = cache.by_index("Pod", BY_ARTIFACT, f"{artifact.metadata.namespace}/{artifact.spec.key}")
        pods = [pod for pod in (cache.get(*ref) for ref in refs) if pod is not None]
        owner = job["metadata"]["name"] if job else None
        return [pod for pod in pods if pod["metadata"]["labels"].get("batch.kubernetes.io/job-name") == owner]

    def _owner(self, artifact: ModelArtifact) -> str:
        """Who refers to the artifact, in a store that several clusters and namespaces share."""
        return f"{self._context.settings.owner}.{artifact.metadata.namespace}"


def _source_of(model: EdgeModel, artifact: ModelArtifact) -> ResolvedSource | None:
    """What an EdgeModel reads, as far as that is known: the artifact's source, or its own that may hold the same."""
    request = source_request(model.spec.source)
    if request == source_request(artifact.spec.source):
        return artifact.spec.resolved
    own = model.status.source
    return own if own is not None and answered_request(own) == request else None


def _job_status(job: Object) -> JobStatus:
    """From the Job itself: a status may be older, if the operator was killed before it wrote it."""
    metadata = job["metadata"]
    attempt, memory_attempt = (int(metadata["labels"][name]) for name in (ATTEMPT_LABEL, MEMORY_ATTEMPT_LABEL))
    return JobStatus(name=metadata["name"], attempt=attempt, memory_attempt=memory_attempt)


def _for_good(job: JobStatus) -> JobStatus:
    return job.model_copy(update={"failed": True})


def _scheme(runtime: EdgeRuntime | None, name: str) -> Scheme | None:
    return next((scheme for scheme in runtime.spec.schemes if scheme.name == name), None) if runtime else None
