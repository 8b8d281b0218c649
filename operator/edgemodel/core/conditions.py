"""The conditions of both resources: the one place that computes them.

They follow kstatus: Ready always; Reconciling and Stalled only while they hold, and never both. What waits or is tried
again is Reconciling; what can't pass until the user acts is Stalled.
"""

from collections.abc import Iterable, Sequence

from edgemodel.api.base import Condition
from edgemodel.core.problem import Problem

_MESSAGE_LIMIT = 2048


def _worst(problems: Sequence[Problem]) -> Problem:
    order = {"stalling": 0, "retrying": 1, "waiting": 2}
    return min(problems, key=lambda problem: order[problem.policy])


def conditions(
    problems: Sequence[Problem],
    done: Problem,
    generation: int,
    before: Iterable[Condition],
    now: str,
) -> list[Condition]:
    """Ready, and what stands against it. `done` names the reason and message of Ready=True; `now` is RFC 3339."""
    previous = {condition.type: condition for condition in before}

    def condition(kind: str, status: str, reason: str, message: str) -> Condition:
        old = previous.get(kind)
        return Condition.model_validate(
            {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": message[:_MESSAGE_LIMIT],
                "observedGeneration": generation,
                "lastTransitionTime": old.last_transition_time if old and old.status == status else now,
            }
        )

    if not problems:
        return [condition("Ready", "True", done.reason, done.message)]
    worst = _worst(problems)
    message = "; ".join(dict.fromkeys(problem.message for problem in problems))
    abnormal = "Stalled" if worst.policy == "stalling" else "Reconciling"
    return [
        condition("Ready", "False", worst.reason, message),
        condition(abnormal, "True", worst.reason, message),
    ]


def find(found: Iterable[Condition], kind: str) -> Condition | None:
    """The condition of this type."""
    return next((condition for condition in found if condition.type == kind), None)


def is_ready(found: Iterable[Condition]) -> bool:
    """Whether Ready is True."""
    ready = find(found, "Ready")
    return ready is not None and ready.status == "True"


def stalled(found: Iterable[Condition]) -> Condition | None:
    """The Stalled condition, if it holds."""
    condition = find(found, "Stalled")
    return condition if condition is not None and condition.status == "True" else None
