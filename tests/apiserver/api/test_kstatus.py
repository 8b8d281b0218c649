"""The rules of kstatus that tests/unit/core/kstatus.py tells, beside the real library's answers."""

from typing import Any

import pytest

from tests import kstatus as real
from tests.unit.core import kstatus as told


def obj(*conditions: tuple[str, str], observed: int | None = 2, **metadata: Any) -> dict[str, Any]:
    status: dict[str, Any] = {"conditions": [{"type": kind, "status": state} for kind, state in conditions]}
    if observed is not None:
        status["observedGeneration"] = observed
    named = {"name": "m", "namespace": "n", "generation": 2} | metadata
    return {"apiVersion": "edgemodel.dev/v1alpha1", "kind": "EdgeModel", "metadata": named, "status": status}


@pytest.mark.parametrize(
    "seen",
    [
        obj(("Ready", "True")),
        obj(("Ready", "False")),
        obj(("Ready", "Unknown")),
        obj(("Ready", "False"), ("Reconciling", "True")),
        obj(("Ready", "False"), ("Stalled", "True")),
        obj(("Ready", "True"), ("Reconciling", "True")),
        obj(("Ready", "True"), ("Stalled", "False")),
        obj(("Reconciling", "True"), ("Stalled", "True")),
        obj(("Stalled", "True"), ("Reconciling", "True")),
        obj(("Ready", "True"), observed=1),
        obj(("Stalled", "True"), observed=1),
        obj(observed=-1),
        obj(observed=None),
        obj(),
        obj(("Ready", "True"), deletionTimestamp="2026-01-02T03:04:05Z"),
    ],
    ids=str,
)
def test_told_rules_are_the_real_ones(seen: dict[str, Any]) -> None:
    assert told.kstatus(seen) == real.kstatus(seen)
