from typing import Any

import pytest

from edgemodel.api.base import Condition
from edgemodel.core.conditions import conditions, find, is_ready, stalled
from edgemodel.core.problem import Problem
from tests.unit.core.kstatus import Kstatus, kstatus
from tests.unit.core.samples import EARLIER, NOW, condition

DONE = Problem.waiting("Serving", "every variant answers")
WAITING = Problem.waiting("NoNode", "no node")
RETRYING = Problem.retrying("StoreUnavailable", "503")
STALLING = Problem.stalling("UnknownScheme", "no scheme")


def said(found: list[Condition]) -> list[tuple[str, str, str]]:
    return [(item.type, item.status, item.reason) for item in found]


@pytest.mark.parametrize(
    ("name", "problems", "expected"),
    [
        ("nothing is wrong", [], [("Ready", "True", "Serving")]),
        ("something waits", [WAITING], [("Ready", "False", "NoNode"), ("Reconciling", "True", "NoNode")]),
        ("something is tried again", [RETRYING],
         [("Ready", "False", "StoreUnavailable"), ("Reconciling", "True", "StoreUnavailable")]),
        ("the user must act", [STALLING], [("Ready", "False", "UnknownScheme"), ("Stalled", "True", "UnknownScheme")]),
        ("what the user must do comes first", [WAITING, RETRYING, STALLING],
         [("Ready", "False", "UnknownScheme"), ("Stalled", "True", "UnknownScheme")]),
        ("what fails comes before what waits", [WAITING, RETRYING],
         [("Ready", "False", "StoreUnavailable"), ("Reconciling", "True", "StoreUnavailable")]),
        ("the first of equals names the reason", [STALLING, Problem.stalling("Other", "m")],
         [("Ready", "False", "UnknownScheme"), ("Stalled", "True", "UnknownScheme")]),
    ],
)  # fmt: skip
def test_conditions_when(name: str, problems: list[Problem], expected: list[tuple[str, str, str]]) -> None:
    assert said(conditions(problems, DONE, 1, [], NOW)) == expected, name


def test_all_problems_are_told_each_once() -> None:
    ready = conditions([WAITING, STALLING, WAITING], DONE, 1, [], NOW)[0]
    assert ready.message == "no node; no scheme"


def test_message_is_cut_to_what_the_api_takes() -> None:
    ready, abnormal = conditions([Problem.waiting("NoNode", "x" * 5000)], DONE, 1, [], NOW)
    assert len(ready.message) == len(abnormal.message) == 2048


def test_time_of_a_condition_is_that_of_its_last_change() -> None:
    before = [Condition.model_validate(condition("Ready", "False")), Condition.model_validate(condition("Reconciling"))]
    still = conditions([WAITING], DONE, 2, before, NOW)
    assert [item.last_transition_time for item in still] == [EARLIER, EARLIER]
    assert [item.last_transition_time for item in conditions([], DONE, 2, before, NOW)] == [NOW]
    assert [item.last_transition_time for item in conditions([STALLING], DONE, 2, before, NOW)] == [EARLIER, NOW]


def test_each_condition_says_of_which_generation_it_speaks() -> None:
    assert {item.observed_generation for item in conditions([WAITING], DONE, 7, [], NOW)} == {7}


@pytest.mark.parametrize(
    ("name", "problems", "expected"),
    [
        ("nothing is wrong", [], "Current"),
        ("something waits", [WAITING], "InProgress"),
        ("something is tried again", [RETRYING], "InProgress"),
        ("the user must act", [STALLING], "Failed"),
        ("the user must act and something waits", [WAITING, STALLING], "Failed"),
    ],
)
def test_gitops_tool_sees(name: str, problems: list[Problem], expected: Kstatus) -> None:
    found = [item.dump() for item in conditions(problems, DONE, 2, [], NOW)]
    seen: dict[str, Any] = {"metadata": {"generation": 2}, "status": {"observedGeneration": 2, "conditions": found}}
    assert kstatus(seen) == expected, name
    changed: dict[str, Any] = seen | {"metadata": {"generation": 3}}
    assert kstatus(changed) == "InProgress", "a change that the operator has not seen is in progress"


def test_gitops_tool_sees_an_object_that_no_operator_has_seen_as_in_progress() -> None:
    assert kstatus({"metadata": {"generation": 1}, "status": {"observedGeneration": -1}}) == "InProgress"


def test_conditions_are_found_by_type() -> None:
    found = conditions([STALLING], DONE, 1, [], NOW)
    assert find(found, "Stalled") == stalled(found) == found[1]
    assert find(found, "Reconciling") is None
    assert not is_ready(found)
    assert is_ready(conditions([], DONE, 1, [], NOW))
    assert not is_ready([])


def test_stalled_that_no_longer_holds_is_none() -> None:
    assert stalled([Condition.model_validate(condition("Stalled", "False"))]) is None
