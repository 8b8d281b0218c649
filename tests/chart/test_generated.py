"""The chart's copies are what they are copies of."""

import pytest
import yaml

from edgemodel.api.__main__ import render
from edgemodel.api.runtime import EdgeRuntime, HardwareClass
from edgemodel.pipeline.llamacpp_schemes import runtime_schemes
from edgemodel.pipeline.texts import calibration_digest
from hack.runtimes import LLAMACPP, llamacpp
from tests.chart.chart import BUCKET, CHART, Helm, one


def test_the_crds_are_those_of_the_types() -> None:
    found = {file.name: file.read_text(encoding="utf-8") for file in (CHART / "files" / "crds").iterdir()}
    assert found == render(), "run `make generate`"


def test_the_llamacpp_file_is_what_the_pipeline_says() -> None:
    assert LLAMACPP.read_text(encoding="utf-8") == llamacpp(), "run `make generate`"


def test_the_crds_reach_the_cluster_unchanged(helm: Helm) -> None:
    rendered = [one for one in helm.render(BUCKET, crds=True) if one["kind"] == "CustomResourceDefinition"]
    by_name = {one["metadata"]["name"]: one for one in rendered}
    wanted = {one["metadata"]["name"]: one for one in map(yaml.safe_load, render().values())}
    assert by_name == wanted
    assert all(one["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for one in rendered)


def test_the_runtime_is_one_that_the_operator_reads(helm: Helm) -> None:
    manifest = one(helm.render(BUCKET), "EdgeRuntime", "llamacpp")
    runtime = EdgeRuntime.model_validate(manifest)
    assert list(runtime.spec.schemes) == runtime_schemes()
    assert runtime.spec.pipeline.calibration == calibration_digest()
    assert runtime.spec.pipeline.image == "ghcr.io/edgemodel/llamacpp-pipeline:0.1.0"
    assert runtime.spec.serving.image == "ghcr.io/edgemodel/llamacpp:0.1.0"
    assert {choice.hardware_class for choice in runtime.spec.hardware} == {"x86-64", "arm64"}


@pytest.mark.parametrize(("name", "architecture"), [("x86-64", "amd64"), ("arm64", "arm64")])
def test_a_hardware_class_is_one_that_the_operator_reads(helm: Helm, name: str, architecture: str) -> None:
    hardware = HardwareClass.model_validate(one(helm.render(BUCKET), "HardwareClass", name))
    assert (hardware.spec.architectures, hardware.spec.priority) == ([architecture], 10)
