"""What is counted of the models in the cache."""

from typing import Any

from edgemodel.controllers.metrics import ModelCollector


class Listed:
    """A stand-in for the cache: what is in it."""

    def __init__(self, *models: dict[str, Any], artifacts: tuple[dict[str, Any], ...] = ()) -> None:
        self._found = {"EdgeModel": models, "ModelArtifact": artifacts}

    def list(self, kind: str) -> tuple[dict[str, Any], ...]:
        return self._found[kind]


def model(namespace: str, reason: str = "", **conditions: str) -> dict[str, Any]:
    found = [{"type": kind, "status": status, "reason": reason} for kind, status in conditions.items()]
    return {"metadata": {"namespace": namespace}, "status": {"conditions": found} if found else {}}


def artifact(scheme: str, size: int | None = None) -> dict[str, Any]:
    status = {} if size is None else {"bytes": size}
    return model("a") | {"spec": {"recipe": {"scheme": scheme}}, "status": status}


def samples(cache: Listed) -> dict[tuple[str, ...], float]:
    collector = ModelCollector(cache)  # type: ignore[arg-type]
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in collector.collect()
        for sample in family.samples
    }


def test_models_are_counted_by_namespace_state_and_reason() -> None:
    ready = model("a", "Serving", Ready="True", Stalled="False", Reconciling="False")
    stalled = model("b", "QualityTooLow", Ready="False", Stalled="True", Reconciling="False")
    at_it = model("b", "MakingArtifact", Ready="False", Stalled="False", Reconciling="True")
    found = samples(Listed(ready, ready, stalled, at_it, model("c")))
    assert found == {
        ("edgemodel_models", "a", "Ready", "Serving"): 2,
        ("edgemodel_models", "b", "Stalled", "QualityTooLow"): 1,
        ("edgemodel_models", "b", "Reconciling", "MakingArtifact"): 1,
        ("edgemodel_models", "c", "Unknown", "NotSeen"): 1,
    }


def test_bytes_of_artifacts_are_added_up_by_scheme() -> None:
    artifacts = (artifact("Q8_0", 3), artifact("Q8_0", 4), artifact("Q4_K_M"))
    found = samples(Listed(artifacts=artifacts))
    assert found["edgemodel_artifact_bytes", "Q8_0"] == 7
    assert found["edgemodel_artifact_bytes", "Q4_K_M"] == 0
    assert found["edgemodel_artifacts", "a", "Unknown", "NotSeen"] == 3
