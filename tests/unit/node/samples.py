"""A pod as the operator makes it for a Mac, and the EdgeRuntime behind it."""

import copy
from typing import Any

from edgemodel.api.artifact import ModelArtifactStatus
from edgemodel.api.runtime import EdgeRuntime, HardwareClass
from edgemodel.core.hardware import NodeFacts
from edgemodel.core.settings import StoreSettings
from tests.mac_node import workload

Json = dict[str, Any]


def runtime(**choice: Any) -> EdgeRuntime:
    """MLX, more or less."""
    native = {"class": "apple-silicon", "native": {"command": ["python3", "-m", "edgemodel.serve"]}, "args": ["--fast"]}
    return EdgeRuntime.model_validate(
        {
            "metadata": {"name": "mlx"},
            "spec": {
                "format": "mlx",
                "tasks": ["TextGeneration", "Embeddings"],
                "schemes": [{"name": "4bit", "bitsPerWeight": "4.5"}],
                "defaultScheme": "4bit",
                "hardware": [native | choice, {"class": "x86-64"}],
                "pipeline": {"image": "pipeline:1", "toolchain": "mlx", "version": "1"},
                "serving": {
                    "image": "mlx:1",
                    "args": ["mlx", "--model", "$(MODEL_DIR)"],
                    "tasks": [{"task": "Embeddings", "args": ["--embed"]}],
                    "env": [{"name": "HOST", "value": "0.0.0.0"}, {"name": "CACHE", "value": "$(MODEL_DIR)/cache"}],
                },
            },
        }
    )


def pod(task: str = "TextGeneration") -> Json:
    """A pod of its Deployment, as the API server has it."""
    made = workload(
        "llama",
        "retail",
        runtime(),
        HardwareClass.model_validate(
            {
                "metadata": {"name": "apple-silicon"},
                "spec": {"architectures": ["arm64"], "operatingSystems": ["darwin"]},
            }
        ),
        NodeFacts("mac", "arm64", "darwin", {}, {}),
        StoreSettings(uri="s3://models/edge", endpoint="https://s3.example", secret_name="edgemodel-store"),
        ModelArtifactStatus(digest=f"sha256:{'1' * 64}", bytes=1 << 28, entrypoint="model.safetensors"),
        task=task,
        resources={"cpu": "1500m"},
    )
    template = copy.deepcopy(made["spec"]["template"])
    metadata = template["metadata"] | {"name": "llama-mac-1", "namespace": "retail", "uid": "pod"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
