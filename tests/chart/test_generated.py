"""The chart's copies are what they are copies of."""

import re
from importlib import import_module

import pytest
import yaml

from edgemodel.api.__main__ import render
from edgemodel.api.runtime import EdgeRuntime, HardwareClass
from edgemodel.core.facts import snapdragon_facts
from edgemodel.core.hardware import NodeFacts, classes_of, is_of_class
from edgemodel.core.snapdragons import SNAPDRAGONS, soc_of
from edgemodel.pipeline.texts import calibration_digest
from hack.runtimes import FOLDER, toolchains
from tests.chart.chart import BUCKET, CHART, HARDWARE, RUNTIMES, Helm, one


def test_the_crds_are_those_of_the_types() -> None:
    found = {file.name: file.read_text(encoding="utf-8") for file in (CHART / "files" / "crds").iterdir()}
    assert found == render(), "run `make generate`"


def test_the_toolchains_files_are_what_the_pipeline_says() -> None:
    found = {file: file.read_text(encoding="utf-8") for file in FOLDER.iterdir()}
    assert found == toolchains(), "run `make generate`"


def test_the_crds_reach_the_cluster_unchanged(helm: Helm) -> None:
    rendered = [one for one in helm.render(BUCKET, crds=True) if one["kind"] == "CustomResourceDefinition"]
    by_name = {one["metadata"]["name"]: one for one in rendered}
    wanted = {one["metadata"]["name"]: one for one in map(yaml.safe_load, render().values())}
    assert by_name == wanted
    assert all(one["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for one in rendered)


@pytest.mark.parametrize("name", sorted(RUNTIMES))
def test_a_runtime_is_one_that_the_operator_reads(helm: Helm, name: str) -> None:
    runtime = EdgeRuntime.model_validate(one(helm.render(BUCKET), "EdgeRuntime", name)).spec
    schemes = import_module(f"edgemodel.pipeline.{runtime.pipeline.toolchain}_schemes")
    assert list(runtime.schemes) == schemes.runtime_schemes()
    assert runtime.default_scheme in {scheme.name for scheme in runtime.schemes}
    assert runtime.pipeline.calibration == calibration_digest()
    assert runtime.pipeline.image == f"ghcr.io/edgemodel/{runtime.pipeline.toolchain}-pipeline:0.1.0"
    assert {choice.hardware_class for choice in runtime.hardware} <= HARDWARE


def test_every_image_of_a_runtime_is_one_that_can_be_set() -> None:
    images = set(yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))["images"])
    used = {"operator", "store"}
    for file in (CHART / "files" / "runtimes").iterdir():
        used |= set(re.findall(r"^ +image: (\S+)$", file.read_text(encoding="utf-8"), re.MULTILINE))
    assert used == images


NFD = "feature.node.kubernetes.io/cpu-"
INTEL = {f"{NFD}model.vendor_id": "Intel", f"{NFD}cpuid.AVX2": "true"}
VNNI = INTEL | {f"{NFD}cpuid.AVX512VNNI": "true"}
SNAPDRAGON = {"edgemodel.dev/soc": "SC8380XP", "edgemodel.dev/htp-architecture": "v73"}


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (NodeFacts("plain", "amd64", "linux", {}, {}), ["x86-64"]),
        (NodeFacts("amd", "amd64", "linux", INTEL | {f"{NFD}model.vendor_id": "AMD"}, {}), ["x86-64"]),
        (NodeFacts("avx2", "amd64", "linux", INTEL, {}), ["intel-cpu", "x86-64"]),
        (NodeFacts("vnni", "amd64", "linux", VNNI, {}), ["intel-cpu-vnni", "intel-cpu", "x86-64"]),
        (
            NodeFacts("amx", "amd64", "linux", VNNI | {f"{NFD}cpuid.AMXINT8": "true"}, {}),
            ["intel-cpu-amx", "intel-cpu-vnni", "intel-cpu", "x86-64"],
        ),
        (NodeFacts("npu", "amd64", "linux", {}, {"npu.intel.com/accel": "1"}), ["intel-npu", "x86-64"]),
        (NodeFacts("i915", "amd64", "linux", {}, {"gpu.intel.com/i915": "1"}), ["intel-gpu", "x86-64"]),
        (NodeFacts("xe", "amd64", "linux", {}, {"gpu.intel.com/xe": "1"}), ["intel-gpu", "x86-64"]),
        (NodeFacts("mi300", "amd64", "linux", {}, {"amd.com/gpu": "1"}), ["amd-gpu", "x86-64"]),
        (NodeFacts("h100", "amd64", "linux", INTEL, {"nvidia.com/gpu": "1"}), ["nvidia", "intel-cpu", "x86-64"]),
        (NodeFacts("orin", "arm64", "linux", {}, {"nvidia.com/gpu": "1"}), ["nvidia", "arm64"]),
        (NodeFacts("no gpu left", "amd64", "linux", {}, {"nvidia.com/gpu": "0"}), ["x86-64"]),
        (NodeFacts("board", "arm64", "linux", SNAPDRAGON, {}), ["snapdragon-sc8380xp", "snapdragon", "arm64"]),
        (
            NodeFacts("newer", "arm64", "linux", SNAPDRAGON | {"edgemodel.dev/soc": "SM9999"}, {}),
            ["snapdragon", "arm64"],
        ),
        (NodeFacts("simulated", "amd64", "linux", SNAPDRAGON, {}), ["snapdragon-sc8380xp", "x86-64"]),
        (NodeFacts("mac", "arm64", "darwin", {}, {}), ["apple-silicon"]),
        (NodeFacts("pi", "arm64", "linux", {}, {}), ["arm64"]),
    ],
    ids=lambda value: value.name if isinstance(value, NodeFacts) else "",
)
def test_a_node_is_of_the_classes(classes: list[HardwareClass], node: NodeFacts, expected: list[str]) -> None:
    assert list(classes_of(node, classes)) == expected


@pytest.fixture(scope="module")
def classes(helm: Helm) -> list[HardwareClass]:
    """The built-in ones, as the operator reads them."""
    return [HardwareClass.model_validate(each) for each in helm.render(BUCKET) if each["kind"] == "HardwareClass"]


@pytest.mark.parametrize("name", ["snapdragon", "snapdragon-sc8380xp"])
def test_a_snapdragon_may_have_to_offer_its_htp(helm: Helm, name: str) -> None:
    values = BUCKET | {"builtins": {"snapdragon": {"resource": "qualcomm.com/htp"}}}
    snapdragon = HardwareClass.model_validate(one(helm.render(values), "HardwareClass", name))
    assert not is_of_class(NodeFacts("board", "arm64", "linux", SNAPDRAGON, {}), snapdragon.spec)
    assert is_of_class(NodeFacts("board", "arm64", "linux", SNAPDRAGON, {"qualcomm.com/htp": "1"}), snapdragon.spec)


@pytest.mark.parametrize("soc", sorted(SNAPDRAGONS))
def test_each_snapdragon_that_is_known_has_a_class_that_artifacts_are_compiled_for(
    helm: Helm, classes: list[HardwareClass], soc: str
) -> None:
    board = NodeFacts("board", "arm64", "linux", snapdragon_facts(soc), {})
    best = classes_of(board, classes)[0]
    qnn = EdgeRuntime.model_validate(one(helm.render(BUCKET), "EdgeRuntime", "qnn")).spec
    (target,) = [choice.target for choice in qnn.hardware if choice.hardware_class == best]
    assert target
    assert SNAPDRAGONS[soc_of(target)] == SNAPDRAGONS[soc]


def test_a_pod_of_qnn_holds_the_htp_where_it_is_a_resource(helm: Helm) -> None:
    values = BUCKET | {"builtins": {"snapdragon": {"resource": "qualcomm.com/htp"}}}
    qnn = EdgeRuntime.model_validate(one(helm.render(values), "EdgeRuntime", "qnn")).spec
    assert {device.name for choice in qnn.hardware for device in choice.devices} == {"qualcomm.com/htp"}
