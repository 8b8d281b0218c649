"""What llama.cpp is on which node: the image, the arguments and the devices that the chart's runtime says."""

from typing import Any

import pytest

from edgemodel.api.model import EdgeModelSpec, Variant
from edgemodel.api.runtime import EdgeRuntime, HardwareChoice, HardwareClass
from edgemodel.core.hardware import NodeFacts, fleet_of
from edgemodel.core.plan import Choice, Landscape, decide
from hack.cluster import images
from tests.chart.chart import BUCKET, Helm, Values

SOURCE = EdgeModelSpec.model_validate({"source": {"uri": "s3://models/model.gguf"}})
SNAPDRAGON = {"edgemodel.dev/soc": "SC8380XP", "edgemodel.dev/htp-architecture": "v73"}


def node(architecture: str = "amd64", *resources: str, labels: dict[str, str] | None = None) -> NodeFacts:
    return NodeFacts("edge", architecture, "linux", labels or {}, {"cpu": "4", **dict.fromkeys(resources, "1")})


def landscape(helm: Helm, *nodes: NodeFacts, values: Values | None = None) -> Landscape:
    rendered = helm.render(BUCKET | {"image": {"tag": "1"}} | (values or {}))
    objects: dict[str, dict[str, Any]] = {kind: {} for kind in ("EdgeRuntime", "HardwareClass")}
    for manifest in rendered:
        if manifest["kind"] in objects:
            objects[manifest["kind"]][manifest["metadata"]["name"]] = manifest
    runtimes = {name: EdgeRuntime.model_validate(one) for name, one in objects["EdgeRuntime"].items()}
    classes = {name: HardwareClass.model_validate(one) for name, one in objects["HardwareClass"].items()}
    return Landscape(runtimes, classes, fleet_of(nodes, classes.values()))


def chosen(helm: Helm, *nodes: NodeFacts, values: Values | None = None) -> list[tuple[str, HardwareChoice]]:
    """Of an EdgeModel of a GGUF that names no variants: each runtime, and what it does there."""
    decisions = decide(SOURCE, landscape(helm, *nodes, values=values), "gguf")
    assert all(isinstance(decision, Choice) for decision in decisions)
    return [(one.runtime.metadata.name, one.on_hardware) for one in decisions if isinstance(one, Choice)]


@pytest.mark.parametrize(
    ("resource", "hardware", "image"),
    [
        ("nvidia.com/gpu", "nvidia", "llamacpp-cuda"),
        ("amd.com/gpu", "amd-gpu", "llamacpp-vulkan"),
        ("gpu.intel.com/i915", "intel-gpu", "llamacpp-vulkan"),
    ],
)
def test_a_node_with_a_gpu_serves_on_it(helm: Helm, resource: str, hardware: str, image: str) -> None:
    [(runtime, there)] = chosen(helm, node("amd64", resource))
    assert (runtime, there.hardware_class) == ("llamacpp", hardware)
    assert there.image == f"ghcr.io/edgemodel/{image}:1"
    assert there.args == ["--n-gpu-layers", "all"]
    assert [(device.name, device.count) for device in there.devices] == [(resource, 1)]


@pytest.mark.parametrize(("architecture", "hardware"), [("amd64", "x86-64"), ("arm64", "arm64")])
def test_a_node_without_one_needs_no_image_but_those_that_every_cluster_has(
    helm: Helm, architecture: str, hardware: str
) -> None:
    [(runtime, there)] = chosen(helm, node(architecture))
    assert (runtime, there.hardware_class, there.image) == ("llamacpp", hardware, None)
    assert "llamacpp" in images.DEPLOYED


def test_a_snapdragons_gpu_is_used_where_a_device_plugin_offers_it(helm: Helm) -> None:
    snapdragon = node("arm64", "vendor.example/adreno", labels=SNAPDRAGON)
    [(_, plain)] = chosen(helm, snapdragon)
    assert (plain.hardware_class, plain.image, plain.devices) == ("snapdragon", None, [])
    values = {"builtins": {"snapdragon": {"gpuResource": "vendor.example/adreno"}}}
    [(_, there)] = chosen(helm, snapdragon, values=values)
    assert there.image == "ghcr.io/edgemodel/llamacpp-opencl:1"
    assert [device.name for device in there.devices] == ["vendor.example/adreno"]


def test_where_the_choice_is_open_a_gpu_of_its_own_memory_goes_before_a_processor(helm: Helm) -> None:
    anywhere = SOURCE.model_copy(update={"variants": [Variant(name="any")]})
    for best, gpu in (("nvidia", "nvidia.com/gpu"), ("amd-gpu", "amd.com/gpu"), ("x86-64", "gpu.intel.com/i915")):
        [decision] = decide(anywhere, landscape(helm, node(), node("amd64", gpu)), "gguf")
        assert isinstance(decision, Choice)
        assert decision.hardware == best


def test_the_gpu_images_are_built_only_when_they_are_asked_for() -> None:
    gpu = {"llamacpp-cuda", "llamacpp-vulkan", "llamacpp-opencl"}
    assert gpu <= images.KNOWN.keys()
    assert not gpu & set(images.DEPLOYED)
