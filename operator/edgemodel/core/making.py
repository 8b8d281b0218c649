"""Does this artifact need making, and what became of the try? Pure answers to the ModelArtifact controller."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from edgemodel.api.artifact import JobStatus
from edgemodel.core.problem import Problem, pod_problem

MAX_ATTEMPTS = 5
MAX_MEMORY_ATTEMPTS = 3
FIRST_BACKOFF_SECONDS = 10.0


@dataclass(frozen=True)
class Running:
    """The Job has not ended; `problem` says what is wrong with its pod, if anything is."""

    problem: Problem | None


@dataclass(frozen=True)
class Succeeded:
    """The Job's pod says that the artifact is published."""


@dataclass(frozen=True)
class Failed:
    """The Job ended without an artifact."""

    problem: Problem
    at: str
    """When, RFC 3339."""


Outcome = Running | Succeeded | Failed


def outcome(job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]]) -> Outcome:
    """What became of the Job."""
    problem = next(filter(None, map(pod_problem, pods)), None)
    for condition in job.get("status", {}).get("conditions", ()):
        if condition["status"] != "True":
            continue
        if condition["type"] == "Complete":
            return Succeeded()
        if condition["type"] == "Failed":
            return Failed(
                problem or Problem.retrying("JobFailed", f"the Job failed: {condition.get('message', '')}"),
                condition.get("lastTransitionTime", ""),
            )
    return Running(problem)


def next_attempt(last: JobStatus, problem: Problem) -> JobStatus | Problem:
    """The next try, or why there is none."""
    if problem.policy == "stalling":
        return problem
    if problem.reason == "DeadlineExceeded":
        return Problem.stalling(
            problem.reason, f"{problem.message}: its log says where it hung. To try again, delete the ModelArtifact"
        )
    if problem.reason == "OutOfMemory":
        if last.memory_attempt >= MAX_MEMORY_ATTEMPTS:
            return Problem.stalling(
                "OutOfMemory",
                f"{problem.message}, also with {2 ** (last.memory_attempt - 1)} times the memory that the model's "
                "headers call for: raise pipeline.memoryOverhead of the EdgeRuntime, then delete the ModelArtifact",
            )
        last = replace_attempt(last, memory_attempt=last.memory_attempt + 1)
    elif last.attempt >= MAX_ATTEMPTS:
        return Problem.stalling(
            problem.reason,
            f"{problem.message} (tried {last.attempt} times; delete the ModelArtifact to try again)",
        )
    return replace_attempt(last, attempt=last.attempt + 1)


def replace_attempt(job: JobStatus, **fields: int) -> JobStatus:
    """The same Job status with other counts."""
    return job.model_copy(update=fields)


def seconds_until(attempt: int, failed_at: str, now: datetime) -> float:
    """How long to wait before attempt number `attempt`: 10 s before the second, doubled each time, at most 300 s."""
    pause = min(FIRST_BACKOFF_SECONDS * 2.0 ** max(0, attempt - 2), 300.0)
    if not failed_at:
        return 0.0
    passed = (now - datetime.fromisoformat(failed_at)).total_seconds()
    return max(0.0, pause - passed)
