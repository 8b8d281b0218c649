"""What comes next for a pod: a pure function of what was seen of it.

    take -> fetch -> start -> probe ... -> leave -> forget
                      ^________|  ended, or not alive: again, after a while

Times are seconds of a clock that only goes forward, but for those that are told to others.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import Enum

CRASHES_FORGOTTEN_AFTER = 600.0
"""A process that has run for this long has not crashed, when it ends, as part of a loop."""
_FIRST_WAIT, _LONGEST_WAIT = 10.0, 300.0


@dataclass(frozen=True)
class Probe:
    """A GET on the pod's port."""

    path: str
    delay: float = 0
    period: float = 10
    timeout: float = 1
    successes: int = 1
    failures: int = 3


@dataclass(frozen=True)
class Probes:
    """A pod's probes."""

    startup: Probe | None = None
    readiness: Probe | None = None
    liveness: Probe | None = None


class Kind(Enum):
    """Which probe."""

    STARTUP = "startup"
    READINESS = "readiness"
    LIVENESS = "liveness"


@dataclass(frozen=True)
class Count:
    """Equal answers of a probe in a row, and when it is due next."""

    good: int = 0
    bad: int = 0
    due: float = 0


@dataclass(frozen=True)
class Health:
    """What the probes have found of one process. Until it has started, only the startup probe asks."""

    probes: Probes
    started: bool
    ready: bool
    sick: str = ""
    """Why the process must be ended; empty while it need not."""
    counts: dict[Kind, Count] = field(default_factory=dict)

    @classmethod
    def new(cls, probes: Probes, now: float) -> "Health":
        """Of a process that has just begun."""
        started = probes.startup is None
        first = {kind: Count(due=now + probe.delay) for kind, probe in _all(probes)}
        return cls(probes, started, started and probes.readiness is None, counts=first)

    def due(self, now: float) -> list[Kind]:
        """The probes whose time it is."""
        asked = {Kind.STARTUP} if not self.started else {Kind.READINESS, Kind.LIVENESS}
        return [kind for kind, _ in _all(self.probes) if kind in asked and self.counts[kind].due <= now]

    def judged(self, kind: Kind, problem: str, now: float) -> "Health":
        """After an answer of a probe; `problem` is empty where it was right."""
        probe = self.probe(kind)
        before = self.counts[kind]
        count = (
            Count(0, before.bad + 1, now + probe.period) if problem else Count(before.good + 1, 0, now + probe.period)
        )
        health = replace(self, counts=self.counts | {kind: count})
        good, bad = count.good >= probe.successes, count.bad >= probe.failures
        if bad and kind is not Kind.READINESS:
            return replace(health, ready=False, sick=f"{kind.value} probe failed {count.bad} times: {problem}")
        if good and kind is Kind.STARTUP:
            return replace(health, started=True, ready=self.probes.readiness is None)
        if kind is Kind.READINESS and (good or bad):
            return replace(health, ready=good)
        return health

    def probe(self, kind: Kind) -> Probe:
        """The probe of a kind that the pod has."""
        return dict(_all(self.probes))[kind]


def _all(probes: Probes) -> Iterator[tuple[Kind, Probe]]:
    for kind, probe in (
        (Kind.STARTUP, probes.startup),
        (Kind.READINESS, probes.readiness),
        (Kind.LIVENESS, probes.liveness),
    ):
        if probe is not None:
            yield kind, probe


def wait_before(crash: int) -> float:
    """Seconds before a container is started again after its crash number `crash`: at once after the first."""
    return 0.0 if crash <= 1 else float(min(_FIRST_WAIT * 2 ** min(crash - 2, 10), _LONGEST_WAIT))


class Step(Enum):
    """What to do for a pod now."""

    WAIT = "wait"
    REFUSE = "refuse"
    FETCH = "fetch"
    START = "start"
    PROBE = "probe"
    RESTART = "restart"
    LEAVE = "leave"
    FORGET = "forget"


@dataclass(frozen=True)
class Life:
    """What is known of a pod."""

    refused: bool = False
    told: bool = False
    """Whether a refusal is in the pod's status."""
    leaving: bool = False
    """It was deleted, or is no more."""
    busy: bool = False
    """A process of its runs."""
    fetched: bool = False
    sick: bool = False
    again_at: float = 0
    """When what failed may be tried again."""


def next_step(life: Life, now: float) -> Step:
    """The step; each leads to another `Life`, or waits for something that wakes."""
    if life.leaving:
        return Step.LEAVE if life.busy else Step.FORGET
    if life.refused:
        return Step.WAIT if life.told or now < life.again_at else Step.REFUSE
    if life.busy:
        return (Step.RESTART if life.sick else Step.PROBE) if life.fetched else Step.WAIT
    if now < life.again_at:
        return Step.WAIT
    return Step.START if life.fetched else Step.FETCH
