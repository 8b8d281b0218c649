"""From a file in inputs/ to the manifests that the operator makes of it."""

from pathlib import Path
from typing import Any

import yaml

from edgemodel.api.artifact import ModelArtifact, ModelArtifactStatus, ResolvedSource
from edgemodel.api.model import EdgeModel
from edgemodel.api.runtime import EdgeRuntime, HardwareClass
from edgemodel.controllers.context import node_facts
from edgemodel.core import objects
from edgemodel.core.hardware import fleet_of
from edgemodel.core.plan import Choice, Landscape, decide
from edgemodel.core.settings import Settings, StoreSettings

INPUTS = Path(__file__).parent / "inputs"
CASES = tuple(sorted(path.stem for path in INPUTS.glob("*.yaml")))


def manifests(case: str, **serving: Any) -> dict[str, objects.Manifest]:
    """What the operator makes of a case, by name; with something else in its `serving`."""
    given: dict[str, Any] = {
        document["kind"]: document
        for document in yaml.safe_load_all((INPUTS / f"{case}.yaml").read_text(encoding="utf-8"))
    }
    spec = given["EdgeModel"]["spec"]
    model = EdgeModel.model_validate(
        given["EdgeModel"] | {"spec": spec | {"serving": spec.get("serving", {}) | serving}}
    )
    runtime = EdgeRuntime.model_validate(given["EdgeRuntime"])
    hardware = HardwareClass.model_validate(given["HardwareClass"])
    resolved = ResolvedSource.model_validate(given["ResolvedSource"])
    status = ModelArtifactStatus.model_validate(given["ModelArtifactStatus"])
    told = {name: value for name, value in given["Settings"].items() if name not in ("kind", "store")}
    pull = tuple(told.pop("image_pull_secrets", ()))
    settings = Settings(store=StoreSettings(**given["Settings"]["store"]), image_pull_secrets=pull, **told)

    landscape = Landscape(
        {runtime.metadata.name: runtime},
        {hardware.metadata.name: hardware},
        fleet_of([node_facts(given["Node"])], [hardware]),
    )
    (decision,) = decide(model.spec, landscape)
    assert isinstance(decision, Choice), decision
    record = objects.model_artifact(model, decision, resolved)
    artifact = ModelArtifact.model_validate(record | {"status": status.dump()})
    artifact = artifact.model_copy(update={"metadata": artifact.metadata.model_copy(update={"uid": "artifact-uid"})})
    attempt, memory_attempt = (status.job.attempt, status.job.memory_attempt) if status.job else (1, 1)
    return {
        "resolver-pod": objects.resolver_pod(model, attempt, settings),
        "modelartifact": record,
        "job": objects.quantization_job(artifact, runtime, decision.scheme, attempt, memory_attempt, settings),
        "workload": objects.workload(model, decision, artifact, resolved, settings),
        "service": objects.service(model),
    }


def pod_spec(manifest: objects.Manifest) -> objects.Manifest | None:
    """The pod that a manifest is or makes."""
    if manifest["kind"] == "Pod":
        spec: objects.Manifest = manifest["spec"]
        return spec
    template: objects.Manifest = manifest["spec"].get("template", {})
    return template.get("spec")
