"""The ONNX toolchain: a real model, a real Olive, a real onnxruntime-genai."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from edgemodel.api.artifact import Recipe, ResolvedSource, Source
from edgemodel.pipeline.errors import CalibrationMismatchError, SourceUnsupportedError, UnknownSchemeError
from edgemodel.pipeline.onnx import ENTRYPOINT, Onnx
from edgemodel.pipeline.onnx_schemes import SCHEMES
from edgemodel.pipeline.progress import Reporter
from edgemodel.pipeline.resolve import resolve
from edgemodel.pipeline.sources import open_source
from edgemodel.pipeline.texts import calibration_digest
from tests.packages import Packages
from tests.unit.pipeline.models import TINYSAWYER, llama_gguf, safetensors

pytestmark = pytest.mark.xdist_group("onnx")  # they share what takes long to make

LARGEST_DIVERGENCE = {
    "INT4": 0.012,
    "INT4_GPTQ": 0.004,
    "INT4_K_QUANT": 0.008,
    "INT4_K_QUANT_MIXED": 0.005,
    "INT8_DYNAMIC": 0.006,
    "INT8_STATIC": 0.009,
    "INT8": 0.0005,
    "FP32": 0.00001,
}

MAKE = """
import json, sys
from pathlib import Path
from edgemodel.api.artifact import Recipe, ResolvedSource
from edgemodel.pipeline.errors import PipelineError
from edgemodel.pipeline.onnx import Onnx
from edgemodel.pipeline.progress import Reporter
source, resolved, recipe, work = sys.argv[1:]
steps = []
reporter = Reporter(lambda _: None)
def begin(name):
    steps.append(name)
    return reporter.step(name)
try:
    pinned, asked = ResolvedSource.model_validate_json(resolved), Recipe.model_validate_json(recipe)
    made = Onnx().make(Path(source), pinned, asked, Path(work), begin)
    said = {
        "folder": str(made.folder), "entrypoint": made.entrypoint, "format": made.format, "tools": made.tools,
        "baseline": made.baseline_bytes, "quality": made.quality.dump(), "performance": made.performance.dump(),
    }
except PipelineError as error:
    said = {"reason": error.reason, "message": str(error)}
reporter.close()
print(json.dumps(said | {"steps": steps}))
"""


def _resolved(model: Path) -> ResolvedSource:
    source = Source(uri=f"pvc://claim/{model.name}")
    return resolve(open_source(source, {"PVC_ROOT": str(model.parent)})).resolved


def _recipe(scheme: str) -> Recipe:
    calibration = calibration_digest() if scheme in SCHEMES and SCHEMES[scheme].calibrated else None
    return Recipe(toolchain="onnx", toolchain_version="test", scheme=scheme, calibration=calibration)


def _make(onnx: Packages, model: Path, scheme: str, tmp_path: Path) -> dict[str, Any]:
    """What the toolchain made, or why it did not."""
    work = tmp_path / "work"
    work.mkdir()
    resolved, recipe = _resolved(model).model_dump_json(), _recipe(scheme).model_dump_json()
    done = onnx.run("-c", MAKE, model, resolved, recipe, work, folder=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of tinysawyer."""
    return Path(shutil.copytree(TINYSAWYER, tmp_path / "model"))


def _change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# Refusals, which need no packages


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(UnknownSchemeError, match="INT4_K_QUANT"):
        Onnx().check(_recipe("INT3"))


def test_another_calibration_text_is_refused() -> None:
    with pytest.raises(CalibrationMismatchError):
        Onnx().check(_recipe("INT8_STATIC").model_copy(update={"calibration": "sha256:" + 64 * "0"}))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_passes_the_check(scheme: str) -> None:
    Onnx().check(_recipe(scheme))


def test_a_gguf_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(llama_gguf())
    reporter = Reporter(lambda _: None)
    with pytest.raises(SourceUnsupportedError, match="safetensors"):
        Onnx().make(tmp_path, _resolved(tmp_path / "model.gguf"), _recipe("INT4"), tmp_path, reporter.step)
    reporter.close()


# The real thing


def test_tinysawyer_becomes_an_artifact(onnx: Packages, model: Path, tmp_path: Path) -> None:
    made = _make(onnx, model, "INT8_STATIC", tmp_path)
    assert made["steps"] == ["Convert", "Quantize", "Evaluate", "Measure"]
    files = {path.name: path.stat().st_size for path in Path(made["folder"]).iterdir()}
    assert sorted(files) == [ENTRYPOINT, "model.onnx", "model.onnx.data", "tokenizer.json", "tokenizer_config.json"]
    assert (made["entrypoint"], made["format"]) == (ENTRYPOINT, "onnx")
    assert made["tools"]["olive-ai"] == "0.13.0"
    assert made["baseline"] / sum(files.values()) > 3.5
    # As llama.cpp has it: see its test.
    assert 50 < float(made["quality"]["baselinePerplexity"]) < 57
    assert made["quality"]["tokens"] == 8 * 255
    assert made["performance"]["engine"] == "onnxruntime-genai 0.14.1"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "work"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_scheme_is_worth_what_it_should_be(onnx_artifacts: Path, scheme: str) -> None:
    quality = json.loads((onnx_artifacts / f"{scheme}.json").read_text())
    assert 0.98 < float(quality["accuracy"]) < 1.02
    assert 0 <= float(quality["kl_divergence"]) < LARGEST_DIVERGENCE[scheme]
    assert 0.9 < float(quality["top_token_agreement"]) <= 1


def test_fewer_bits_make_fewer_bytes(onnx_artifacts: Path) -> None:
    sizes = [(onnx_artifacts / scheme / "model.onnx.data").stat().st_size for scheme in SCHEMES]
    assert sizes == sorted(sizes)
    assert sizes[-1] / sizes[0] > 5


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_same_recipe_makes_the_same_bytes(onnx_artifacts: Path, scheme: str) -> None:
    made, again = onnx_artifacts / scheme, onnx_artifacts / "again" / scheme
    assert sorted(path.name for path in made.iterdir()) == sorted(path.name for path in again.iterdir())
    for path in made.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name


def test_what_olive_does_not_know_is_named(onnx: Packages, model: Path, tmp_path: Path) -> None:
    _change(model / "config.json", architectures=["TinySawyerForCausalLM"])
    said = _make(onnx, model, "INT4", tmp_path)
    assert said["reason"] == "UnsupportedArchitecture"
    assert "TinySawyerForCausalLM" in said["message"]


REFUSE = """
import json, sys
from pathlib import Path
from edgemodel.pipeline.errors import PipelineError
from edgemodel.pipeline.onnx_olive import run_passes
from edgemodel.pipeline.onnx_schemes import UNQUANTIZED
said = {}
for model in map(Path, sys.argv[1:]):
    try:
        run_passes(model, model / "full", model / "full", [UNQUANTIZED])
    except PipelineError as error:
        said[model.name] = [error.reason, str(error)]
print(json.dumps(said))
"""


def test_what_cannot_be_converted_is_refused_and_no_code_in_it_runs(onnx: Packages, tmp_path: Path) -> None:
    code, tokenizer, weights = (
        Path(shutil.copytree(TINYSAWYER, tmp_path / name)) for name in ("code", "tokenizer", "weights")
    )
    _change(
        code / "config.json",
        model_type="tinysawyer",
        auto_map={"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"},
    )
    (code / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    (tokenizer / "tokenizer.model").write_bytes(b"no tokenizer")
    (weights / "model.safetensors").write_bytes(safetensors(("a", "F16", [4], 8)))
    done = onnx.run("-c", REFUSE, code, tokenizer, weights, folder=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert {name: reason for name, (reason, _) in said.items()} == {
        "code": "UnsupportedArchitecture",
        "tokenizer": "UnsupportedArchitecture",
        "weights": "QuantizationFailed",
    }
    assert "tokenizer" in said["tokenizer"][1]
    assert "lm_head.weight" in said["weights"][1]
    assert not (tmp_path / "ran").exists()
