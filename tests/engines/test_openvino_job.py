"""OpenVINO's toolchain: every scheme of a real model, the whole Job, and what it refuses."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgemodel.api.artifact import Recipe, Source
from edgemodel.pipeline import errors
from edgemodel.pipeline.openvino import OpenVino as Toolchain
from edgemodel.pipeline.openvino_schemes import DEFAULT_SCHEME, SCHEMES, runtime_schemes
from edgemodel.pipeline.progress import Reporter
from edgemodel.pipeline.resolve import resolve
from edgemodel.pipeline.sources import open_source
from edgemodel.pipeline.texts import calibration_digest
from tests.engines.whole_job import run_job
from tests.packages import Packages
from tests.s3 import S3
from tests.unit.pipeline.models import TINYSAWYER, llama_gguf, safetensors

pytestmark = pytest.mark.xdist_group("openvino")  # they share what takes long to make

COMPRESSED = sorted((name for name in SCHEMES if name != "FP16"), key=lambda name: name != DEFAULT_SCHEME)
PARAMETERS, OUTER = 3_672_320, 2 * 1024 * 256
"""Tinysawyer's; and those of them in its embeddings and its output layer, which have 8 bits at least."""

Found = tuple[Path, dict[str, Any]]


def _model(folder: Path, **changes: object) -> Path:
    """Tinysawyer, with another configuration."""
    model = shutil.copytree(TINYSAWYER, folder / "model")
    config = json.loads((model / "config.json").read_text()) | changes
    (model / "config.json").write_text(json.dumps(config))
    return model


def _recipe(scheme: str) -> Recipe:
    calibration = calibration_digest() if scheme in SCHEMES and SCHEMES[scheme].calibrated else None
    return Recipe(toolchain="openvino", toolchain_version="test", scheme=scheme, calibration=calibration)


# Every scheme


@pytest.fixture(scope="module")
def schemes(openvino: Packages, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """A folder with tinysawyer as OpenVINO has it, in FP16 (`full`) and in every scheme, and what was found out."""
    folder = tmp_path_factory.mktemp("schemes")
    done = openvino.run(Path(__file__).with_name("openvino_make.py"), TINYSAWYER, folder, *COMPRESSED)
    assert done.returncode == 0, done.stderr[-4000:]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return folder, {one["scheme"]: one for one in found}


@pytest.mark.parametrize("scheme", COMPRESSED)
def test_every_scheme_has_its_bits_and_answers(schemes: Found, scheme: str) -> None:
    one, quality = schemes[1][scheme], schemes[1][scheme]["quality"]
    inner = 8 if scheme == "INT8" else 4.8 if "MIXED" in scheme else 4
    bits = (inner * (PARAMETERS - OUTER) + 8 * OUTER) / PARAMETERS
    assert bits < 8 * one["weights"] / PARAMETERS < bits + 0.3
    # 53.2 over the tokens that are scored.
    assert 0 < float(quality["klDivergence"]) < (0.001 if scheme == "INT8" else 0.03)
    assert 0.93 < float(quality["accuracy"]) < 1.02
    assert float(quality["topTokenAgreement"]) > (0.97 if scheme == "INT8" else 0.88)
    assert one["answer"]
    assert one["finish"] == "length"


def test_the_bits_of_the_runtime_are_for_large_models_and_no_lower_than_these_schemes_have(schemes: Found) -> None:
    sizes = {scheme: one["weights"] for scheme, one in schemes[1].items()}
    assert sorted(sizes, key=sizes.__getitem__) == sorted(
        sizes, key=lambda name: (float(SCHEMES[name].bits), sizes[name])
    )


def test_an_edge_runtime_can_list_the_schemes() -> None:
    names = [scheme.name for scheme in runtime_schemes()]
    assert DEFAULT_SCHEME in names
    assert [float(scheme.bits) for scheme in SCHEMES.values()] == sorted(float(one.bits) for one in SCHEMES.values())


# The whole Job


def test_the_job_publishes_what_openvino_model_server_takes(
    openvino: Packages, s3: S3, tmp_path: Path, schemes: Found
) -> None:
    shutil.copytree(TINYSAWYER, tmp_path / "volume" / "model")
    steps, said, published = run_job(openvino, s3, tmp_path, _recipe(DEFAULT_SCHEME))
    assert steps == ["Fetch", "Convert", "Calibrate", "Quantize", "Evaluate", "Measure", "Publish"]
    assert said["quality"]["tokens"] == 8 * 255
    assert 50 < float(said["quality"]["baselinePerplexity"]) < 57
    assert 0 < float(said["quality"]["klDivergence"]) < 0.03
    assert 2.5 < said["baselineBytes"] / said["bytes"] < 3.5
    manifest = published.manifest
    assert (manifest.format, manifest.entrypoint) == ("openvino", "openvino_model.xml")
    assert manifest.tools["nncf"]
    assert {file.path for file in manifest.files} == {
        "config.json", "generation_config.json", "graph.pbtxt", "openvino_detokenizer.bin", "openvino_detokenizer.xml",
        "openvino_model.bin", "openvino_model.xml", "openvino_tokenizer.bin", "openvino_tokenizer.xml",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    # The same bytes as in another folder, in another process: of the scheme, and of FP16.
    for there, here in ((schemes[0] / DEFAULT_SCHEME, "artifact"), (schemes[0] / "full", "full")):
        for file in manifest.files:
            made = tmp_path / "work" / "make" / here / file.path
            assert made.read_bytes() == (there / file.path).read_bytes(), made


# What it refuses


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(errors.UnknownSchemeError, match=r"use one of .*INT4_ASYM"):
        Toolchain().check(_recipe("Q4_K_M"))


def test_another_calibration_text_is_refused() -> None:
    recipe = _recipe(DEFAULT_SCHEME).model_copy(update={"calibration": "sha256:" + 64 * "0"})
    with pytest.raises(errors.CalibrationMismatchError):
        Toolchain().check(recipe)


Make = Callable[[Path], Path]


@pytest.fixture
def make(openvino: Packages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes FP16 of the model in a folder."""
    monkeypatch.setattr("sys.executable", str(openvino.python))
    monkeypatch.setenv("PYTHONPATH", openvino.env["PYTHONPATH"])

    def make_of(model: Path) -> Path:
        (tmp_path / "work").mkdir()
        source = Source(uri=f"pvc://claim/{model.name}")
        resolved = resolve(open_source(source, {"PVC_ROOT": str(model.parent)})).resolved
        reporter = Reporter(lambda _: None)
        try:
            return Toolchain().make(model, resolved, _recipe("FP16"), tmp_path / "work", reporter.step).folder
        finally:
            reporter.close()

    return make_of


def test_gguf_is_refused(make: Make, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.gguf").write_bytes(llama_gguf())
    with pytest.raises(errors.SourceUnsupportedError, match="safetensors"):
        make(tmp_path / "model")


def test_an_unsupported_architecture_is_named(make: Make, tmp_path: Path) -> None:
    with pytest.raises(errors.UnsupportedArchitectureError, match="TinySawyerForCausalLM"):
        make(_model(tmp_path, architectures=["TinySawyerForCausalLM"]))


def test_weights_that_do_not_fit_the_config_are_told(make: Make, tmp_path: Path) -> None:
    with pytest.raises(errors.QuantizationFailedError, match="could not convert the model: RuntimeError"):
        make(_model(tmp_path, intermediate_size=512))


CONVERT = """
import json, sys
from edgemodel.pipeline.errors import PipelineError
from edgemodel.pipeline.openvino_steps import convert
for model in sys.argv[1:]:
    try:
        convert(model, model + "/made", model + "/windows.json")
    except PipelineError as error:
        print(error.termination())
    else:
        print("{}")
"""

REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "another-class": (
        {"architectures": ["LlamaForSequenceClassification"]}, "UnsupportedArchitecture", "SequenceClassification",
    ),
    "unknown": ({"model_type": "tinysawyer"}, "UnsupportedArchitecture", "LlamaForCausalLM"),
    "encoder": ({"architectures": ["BertModel"], "model_type": "bert"}, "UnsupportedArchitecture", "BertModel"),
    "quantized": ({"quantization_config": {"quant_method": "gptq"}}, "SourceUnsupported", "quantized already"),
    "without-weights": ({}, "QuantizationFailed", "such as lm_head.weight"),
    "without-tokenizer": ({}, "UnsupportedArchitecture", "tokenizer"),
}  # fmt: skip
"""Folder -> what its configuration has, why it is refused, and words of the message."""


def test_what_cannot_be_converted_is_refused_and_code_is_not_run(openvino: Packages, tmp_path: Path) -> None:
    models = {name: _model(tmp_path / name, **config) for name, (config, _, _) in REFUSED.items()}
    (models["without-weights"] / "model.safetensors").write_bytes(safetensors(("a", "F16", [4], 8)))
    os.truncate(models["without-tokenizer"] / "tokenizer.model", 10)
    code = _model(tmp_path / "code", auto_map={"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"})
    (code / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    done = openvino.run("-c", CONVERT, *models.values(), code)
    assert done.returncode == 0, done.stderr[-4000:]
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert said.pop() == {}
    assert (code / "made" / "openvino_model.xml").exists()
    assert not (tmp_path / "ran").exists()
    for (_, reason, words), one in zip(REFUSED.values(), said, strict=True):
        assert one["reason"] == reason
        assert words in one["message"]
