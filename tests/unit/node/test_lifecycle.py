"""What comes next for a pod."""

import pytest

from edgemodel.node.lifecycle import Health, Kind, Life, Probe, Probes, Step, next_step, wait_before

NOW = 100.0


@pytest.mark.parametrize(
    ("life", "step"),
    [
        (Life(), Step.FETCH),
        (Life(busy=True), Step.WAIT),  # it is being fetched
        (Life(again_at=NOW + 1), Step.WAIT),
        (Life(fetched=True), Step.START),
        (Life(fetched=True, again_at=NOW + 1), Step.WAIT),
        (Life(fetched=True, busy=True), Step.PROBE),
        (Life(fetched=True, busy=True, sick=True), Step.RESTART),
        (Life(refused=True), Step.REFUSE),
        (Life(refused=True, again_at=NOW + 1), Step.WAIT),
        (Life(refused=True, told=True), Step.WAIT),
        (Life(leaving=True, busy=True, fetched=True, sick=True), Step.LEAVE),
        (Life(leaving=True, busy=True), Step.LEAVE),
        (Life(leaving=True, again_at=NOW + 1), Step.FORGET),
        (Life(leaving=True, refused=True, told=True), Step.FORGET),
    ],
)
def test_each_step_follows_from_what_is(life: Life, step: Step) -> None:
    assert next_step(life, NOW) is step


def test_crash_loops_slow_down() -> None:
    assert [wait_before(crash) for crash in range(9)] == [0, 0, 10, 20, 40, 80, 160, 300, 300]
    assert wait_before(10_000) == 300


PROBES = Probes(
    startup=Probe("/health", period=1, failures=3),
    readiness=Probe("/health", delay=2, period=5, failures=2, successes=2),
    liveness=Probe("/health", period=20, failures=2),
)


def judged(health: Health, kind: Kind, *problems: str) -> Health:
    """After some answers."""
    for problem in problems:
        health = health.judged(kind, problem, NOW)
    return health


def test_only_the_startup_probe_asks_at_first() -> None:
    health = Health.new(PROBES, NOW)
    assert (health.started, health.ready) == (False, False)
    assert health.due(NOW) == [Kind.STARTUP]
    started = judged(health, Kind.STARTUP, "")
    assert started.started
    assert not started.ready
    assert started.due(NOW) == [Kind.LIVENESS]
    assert started.due(NOW + 2) == [Kind.READINESS, Kind.LIVENESS]


def test_probe_is_due_again_after_its_period() -> None:
    health = judged(Health.new(PROBES, NOW), Kind.STARTUP, "refused")
    assert health.due(NOW + 0.9) == []
    assert health.due(NOW + 1) == [Kind.STARTUP]


def test_process_that_never_starts_is_sick() -> None:
    health = judged(Health.new(PROBES, NOW), Kind.STARTUP, "refused", "refused")
    assert not health.sick
    assert "startup probe failed 3 times: refused" in judged(health, Kind.STARTUP, "refused").sick


def test_readiness_takes_its_number_of_answers_both_ways() -> None:
    health = judged(Health.new(PROBES, NOW), Kind.STARTUP, "")
    health = judged(health, Kind.READINESS, "")
    assert not health.ready
    health = judged(health, Kind.READINESS, "")
    assert health.ready
    health = judged(health, Kind.READINESS, "503")
    assert health.ready
    health = judged(health, Kind.READINESS, "503")
    assert not health.ready
    assert not health.sick


def test_liveness_fails_in_a_row_or_not_at_all() -> None:
    health = judged(Health.new(PROBES, NOW), Kind.STARTUP, "")
    assert not judged(health, Kind.LIVENESS, "503", "", "503").sick
    assert judged(health, Kind.LIVENESS, "503", "503").sick


def test_without_probes_a_process_is_ready_at_once() -> None:
    health = Health.new(Probes(), NOW)
    assert health.started
    assert health.ready
    assert health.due(NOW + 1000) == []
