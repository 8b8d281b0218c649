"""Pods of OpenVINO Model Server, as its documentation asks for them, for models that generate text and that embed it.

Its image cannot be had where these tests run: that it starts with these arguments is not proven here. The folder that
it is pointed at is loaded by OpenVINO GenAI in tests/engines.

Sources: upstream's docs/parameters.md (command line), docs/llm/reference.md (tasks, graphs in memory), docs/metrics.md,
docs/model_server_rest_api_kfs.md (readiness), docs/model_server_rest_api_embeddings.md; and src/embeddings (pooling,
which the documentation says is CLS by default, is read in the folder's 1_Pooling/config.json first) of version 2026.3.
"""

from typing import Any

import pytest

from edgemodel.api.artifact import ModelArtifact
from edgemodel.api.model import EdgeModel
from edgemodel.api.runtime import EdgeRuntime, HardwareClass
from edgemodel.core.hardware import NodeFacts, fleet_of
from edgemodel.core.objects import model_artifact, workload
from edgemodel.core.plan import Choice, Landscape, decide
from tests.chart.chart import BUCKET, Helm
from tests.golden.restricted import violations
from tests.unit.core.samples import SETTINGS, edge_model, published, resolved

INTEL = {
    "feature.node.kubernetes.io/cpu-model.vendor_id": "Intel",
    "feature.node.kubernetes.io/cpu-cpuid.AVX2": "true",
}
AMX = INTEL | {
    "feature.node.kubernetes.io/cpu-cpuid.AVX512VNNI": "true",
    "feature.node.kubernetes.io/cpu-cpuid.AMXINT8": "true",
}
NODES = {
    "cpu": NodeFacts("n", "amd64", "linux", AMX, {}),
    "gpu": NodeFacts("n", "amd64", "linux", AMX, {"gpu.intel.com/i915": "1"}),
    "npu": NodeFacts("n", "amd64", "linux", AMX, {"npu.intel.com/accel": "1"}),
}


def chosen_on(helm: Helm, node: str, task: str) -> tuple[EdgeModel, Choice]:
    """What is decided of an EdgeModel that leaves everything open, on a node of Intel's."""
    rendered = helm.render(BUCKET)
    classes = [HardwareClass.model_validate(each) for each in rendered if each["kind"] == "HardwareClass"]
    runtimes = [EdgeRuntime.model_validate(each) for each in rendered if each["kind"] == "EdgeRuntime"]
    landscape = Landscape(
        {runtime.metadata.name: runtime for runtime in runtimes},
        {each.metadata.name: each for each in classes},
        fleet_of([NODES[node]], classes),
    )
    model = edge_model(serving={"contextLength": 4096, "parallel": 4}, task=task)
    (choice,) = decide(model.spec, landscape, "safetensors")
    assert isinstance(choice, Choice)
    return model, choice


def pod_on(helm: Helm, node: str, task: str = "TextGeneration") -> dict[str, Any]:
    """The pod of that EdgeModel."""
    model, choice = chosen_on(helm, node, task)
    record = model_artifact(model, choice, resolved())
    status = published().status.dump() | {"entrypoint": "openvino_model.xml"}
    artifact = ModelArtifact.model_validate(record | {"status": status})
    pod: dict[str, Any] = workload(model, choice, artifact, resolved(), SETTINGS)["spec"]["template"]["spec"]
    return pod


def options(pod: dict[str, Any]) -> dict[str, str]:
    """The command line: option -> value; the last of several counts."""
    (container,) = pod["containers"]
    assert "command" not in container, "the image's own entrypoint starts the server"
    found: dict[str, str] = {}
    for word in container["args"]:
        if word.startswith("--"):
            option = word
            found[option] = ""
        else:
            found[option] = word
    return found


CPU, GPU = "docker.io/openvino/model_server:2026.3", "docker.io/openvino/model_server:2026.3-gpu"


@pytest.mark.parametrize(
    ("node", "image", "device", "hardware", "held"),
    [
        ("cpu", CPU, "CPU", "intel-cpu-amx", None),
        ("gpu", GPU, "GPU", "intel-gpu", "gpu.intel.com/i915"),
        ("npu", GPU, "NPU", "intel-npu", "npu.intel.com/accel"),
    ],
)
def test_the_pod_is_as_upstream_asks(helm: Helm, node: str, image: str, device: str, hardware: str, held: str) -> None:
    pod = pod_on(helm, node)
    (container,) = pod["containers"]
    assert container["image"] == image
    assert pod["nodeSelector"] == {f"hardware.edgemodel.dev/{hardware}": "true"}
    assert options(pod) == {
        "--rest_port": "$(PORT)",
        "--rest_bind_address": "0.0.0.0",
        "--model_name": "$(MODEL_NAME)",
        "--model_path": "$(MODEL_DIR)",
        "--task": "text_generation",
        "--target_device": device,
        "--max_num_seqs": "$(PARALLEL)",
        "--enable_prefix_caching": "false",
        "--rest_workers": "4",
        "--metrics_enable": "",
        "--file_system_poll_wait_seconds": "0",
    } | ({"--max_prompt_len": "$(CONTEXT_LENGTH)"} if device == "NPU" else {})
    env = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert (env["PORT"], env["MODEL_DIR"], env["PARALLEL"], env["CONTEXT_LENGTH"]) == ("8080", "/models", "4", "4096")
    assert container["ports"] == [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/v2/health/ready", "port": "http"}
    limits = {name: value for name, value in container["resources"]["limits"].items() if "/" in name}
    assert limits == ({held: "1"} if held else {})
    mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}
    assert mounts == {"/models": True, "/tmp": False}
    assert list(violations(pod)) == []


@pytest.mark.parametrize(
    ("node", "image", "device", "hardware"),
    [("cpu", CPU, "CPU", "intel-cpu-amx"), ("gpu", GPU, "GPU", "intel-gpu")],
)
def test_the_pod_of_a_model_that_embeds_is_too(helm: Helm, node: str, image: str, device: str, hardware: str) -> None:
    pod = pod_on(helm, node, "Embeddings")
    (container,) = pod["containers"]
    assert container["image"] == image
    assert pod["nodeSelector"] == {f"hardware.edgemodel.dev/{hardware}": "true"}
    assert options(pod) == {
        "--rest_port": "$(PORT)",
        "--rest_bind_address": "0.0.0.0",
        "--model_name": "$(MODEL_NAME)",
        "--model_path": "$(MODEL_DIR)",
        "--task": "embeddings",
        "--target_device": device,
        "--rest_workers": "4",
        "--metrics_enable": "",
        "--file_system_poll_wait_seconds": "0",
    }
    assert container["startupProbe"]["httpGet"] == {"path": "/v2/health/ready", "port": "http"}
    assert list(violations(pod)) == []


def test_an_npu_embeds_nothing(helm: Helm) -> None:
    _, choice = chosen_on(helm, "npu", "Embeddings")
    assert (choice.runtime.metadata.name, choice.hardware) == ("openvino", "intel-cpu-amx")
