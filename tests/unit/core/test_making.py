from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from edgemodel.api.artifact import JobStatus
from edgemodel.core.making import (
    MAX_ATTEMPTS,
    MAX_MEMORY_ATTEMPTS,
    Failed,
    Outcome,
    Running,
    Succeeded,
    next_attempt,
    outcome,
    seconds_until,
)
from edgemodel.core.problem import Problem

AT = "2026-01-02T03:04:05Z"
OOM_POD = {
    "metadata": {"name": "p"},
    "status": {"containerStatuses": [{"state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]},
}
FINE_POD = {"metadata": {"name": "p"}, "status": {"phase": "Running"}}
UNSCHEDULABLE_POD = {
    "metadata": {"name": "p"},
    "status": {"conditions": [{"type": "PodScheduled", "status": "False", "message": "no room"}]},
}
OOM = Problem.retrying("OutOfMemory", "pod p was killed: it needed more memory than its limit")


def job(*conditions: tuple[str, str], **status: Any) -> dict[str, Any]:
    """As the Job controller of 1.31 and later writes it: FailureTarget before Failed, SuccessCriteriaMet likewise."""
    found = [
        {"type": kind, "status": state, "reason": "BackoffLimitExceeded", "lastTransitionTime": AT,
         "message": "Job has reached the specified backoff limit"}
        for kind, state in conditions
    ]  # fmt: skip
    return {"metadata": {"name": "j"}, "status": {"conditions": found} | status}


JOB_FAILED = Problem.retrying("JobFailed", "the Job failed: Job has reached the specified backoff limit")
NO_ROOM = Problem.waiting("Unschedulable", "pod p fits no node yet: no room")


@pytest.mark.parametrize(
    ("name", "observed", "pods", "expected"),
    [
        ("nobody has seen it", {"metadata": {"name": "j"}}, [], Running(None)),
        ("it runs", job(active=1), [FINE_POD], Running(None)),
        ("its pod finds no node", job(active=1), [UNSCHEDULABLE_POD], Running(NO_ROOM)),
        ("it will fail when its pod is gone", job(("FailureTarget", "True")), [OOM_POD], Running(OOM)),
        ("it will succeed when its pod is gone", job(("SuccessCriteriaMet", "True")), [FINE_POD], Running(None)),
        ("it is suspended no more", job(("Suspended", "False")), [], Running(None)),
        ("it succeeded", job(("SuccessCriteriaMet", "True"), ("Complete", "True")), [FINE_POD], Succeeded()),
        ("it failed and its pod tells why", job(("FailureTarget", "True"), ("Failed", "True")), [OOM_POD],
         Failed(OOM, AT)),
        ("it failed and its pod is gone", job(("Failed", "True")), [], Failed(JOB_FAILED, AT)),
    ],
)  # fmt: skip
def test_outcome_of_a_job_when(
    name: str, observed: dict[str, Any], pods: list[dict[str, Any]], expected: Outcome
) -> None:
    assert outcome(observed, pods) == expected, name


def test_what_hung_for_as_long_as_it_may_is_not_tried_again() -> None:
    problem = next_attempt(JobStatus(name="j"), Problem.retrying("DeadlineExceeded", "pod p: was active too long"))
    assert isinstance(problem, Problem)
    assert (problem.reason, problem.policy) == ("DeadlineExceeded", "stalling")
    assert "pod p: was active too long" in problem.message
    assert "delete the ModelArtifact" in problem.message


def test_what_can_never_pass_is_not_tried_again() -> None:
    problem = Problem.stalling("SourceNotFound", "no such model")
    assert next_attempt(JobStatus(name="j"), problem) == problem


def test_what_can_pass_next_time_is_tried_five_times() -> None:
    problem = Problem.retrying("HubUnavailable", "503")
    last = JobStatus(name="j")
    for attempt in range(2, MAX_ATTEMPTS + 1):
        following = next_attempt(last, problem)
        assert isinstance(following, JobStatus)
        assert (following.attempt, following.memory_attempt) == (attempt, 1)
        last = following
    assert next_attempt(last, problem) == Problem.stalling(
        "HubUnavailable", "503 (tried 5 times; delete the ModelArtifact to try again)"
    )


def test_too_little_memory_is_doubled_twice_and_then_told() -> None:
    last = JobStatus(name="j")
    for memory_attempt in range(2, MAX_MEMORY_ATTEMPTS + 1):
        following = next_attempt(last, OOM)
        assert isinstance(following, JobStatus)
        assert (following.attempt, following.memory_attempt) == (memory_attempt, memory_attempt)
        last = following
    problem = next_attempt(last, OOM)
    assert isinstance(problem, Problem)
    assert (problem.reason, problem.policy) == ("OutOfMemory", "stalling")
    assert "also with 4 times the memory" in problem.message
    assert "raise pipeline.memoryOverhead" in problem.message


def test_memory_once_doubled_stays_so_when_something_else_fails() -> None:
    following = next_attempt(JobStatus(name="j", attempt=2, memory_attempt=2), Problem.retrying("Evicted", "m"))
    assert following == JobStatus(name="j", attempt=3, memory_attempt=2)


@pytest.mark.parametrize(
    ("attempt", "passed", "expected"),
    [
        (2, 0, 10.0),
        (2, 4, 6.0),
        (2, 10, 0.0),
        (2, 3600, 0.0),
        (3, 0, 20.0),
        (4, 0, 40.0),
        (5, 0, 80.0),
        (6, 0, 160.0),
        (7, 0, 300.0),
        (100, 0, 300.0),
        (1, 0, 10.0),
    ],
)
def test_pause_is_ten_seconds_doubled_each_time_up_to_five_minutes(
    attempt: int, passed: float, expected: float
) -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC) + timedelta(seconds=passed)
    assert seconds_until(attempt, AT, moment) == expected


def test_no_pause_when_nobody_knows_when_it_failed() -> None:
    assert seconds_until(2, "", datetime.now(UTC)) == 0.0
