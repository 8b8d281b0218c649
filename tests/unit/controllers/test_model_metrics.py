"""What is counted of the models in the cache."""

from itertools import count
from typing import Any

from edgemodel.controllers.metrics import ModelCollector
from edgemodel.engine.cache import Cache, Watch
from edgemodel.engine.objects import Resource

_API = ("edgemodel.dev", "v1alpha1")
KINDS = (Resource(*_API, "edgemodels", "EdgeModel"), Resource(*_API, "modelartifacts", "ModelArtifact"))
_numbers = count(1)


def model(namespace: str, reason: str = "", **conditions: str) -> dict[str, Any]:
    found = [{"type": kind, "status": status, "reason": reason} for kind, status in conditions.items()]
    number = str(next(_numbers))
    return {
        "metadata": {"namespace": namespace, "name": f"m{number}", "resourceVersion": number},
        "status": {"conditions": found} if found else {},
    }


def artifact(scheme: str, size: int | None = None) -> dict[str, Any]:
    status = {} if size is None else {"bytes": size}
    return model("a") | {"spec": {"recipe": {"scheme": scheme}}, "status": status}


def samples(*models: dict[str, Any], artifacts: tuple[dict[str, Any], ...] = ()) -> dict[tuple[str, ...], float]:
    cache = Cache([Watch(kind) for kind in KINDS])
    for kind, found in zip(KINDS, (models, artifacts), strict=True):
        for obj in found:
            cache.put(kind.kind, obj)
    families = ModelCollector(cache).collect()
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


def test_models_are_counted_by_namespace_state_and_reason() -> None:
    ready, also_ready = (model("a", "Serving", Ready="True", Stalled="False", Reconciling="False") for _ in range(2))
    stalled = model("b", "QualityTooLow", Ready="False", Stalled="True", Reconciling="False")
    at_it = model("b", "MakingArtifact", Ready="False", Stalled="False", Reconciling="True")
    found = samples(ready, also_ready, stalled, at_it, model("c"))
    assert found == {
        ("edgemodel_models", "a", "Ready", "Serving"): 2,
        ("edgemodel_models", "b", "Stalled", "QualityTooLow"): 1,
        ("edgemodel_models", "b", "Reconciling", "MakingArtifact"): 1,
        ("edgemodel_models", "c", "Unknown", "NotSeen"): 1,
    }


def test_bytes_of_artifacts_are_added_up_by_scheme() -> None:
    artifacts = (artifact("Q8_0", 3), artifact("Q8_0", 4), artifact("Q4_K_M"))
    found = samples(artifacts=artifacts)
    assert found["edgemodel_artifact_bytes", "Q8_0"] == 7
    assert found["edgemodel_artifact_bytes", "Q4_K_M"] == 0
    assert found["edgemodel_artifacts", "a", "Unknown", "NotSeen"] == 3
