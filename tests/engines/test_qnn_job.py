"""The QNN toolchain: a real ONNX Runtime, a real QNN, its simulator of the HTP."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from edgemodel.api.artifact import Recipe
from edgemodel.core.snapdragons import SNAPDRAGONS, soc_of, target_of
from edgemodel.pipeline.qnn_schemes import DEFAULT_SCHEME, SCHEMES
from edgemodel.pipeline.texts import calibration_digest
from tests.engines.whole_job import run_job
from tests.packages import Packages
from tests.s3 import S3
from tests.unit.pipeline.models import safetensors

pytestmark = pytest.mark.xdist_group("qnn")  # they share what takes long to make

TARGET = "sm8650-v75"
RECIPE = Recipe(
    toolchain="qnn",
    toolchain_version="test",
    scheme=DEFAULT_SCHEME,
    task="Embeddings",
    calibration=calibration_digest(),
    target=TARGET,
)
FILES = ["context.onnx", "context_qnn.bin", "model.onnx", "qnn.json", "tokenizer.json"]


def test_a_model_becomes_an_artifact_in_the_store(qnn: Packages, qnn_source: Path, s3: S3, tmp_path: Path) -> None:
    shutil.copytree(qnn_source, tmp_path / "volume" / "model")
    steps, said, published = run_job(qnn, s3, tmp_path, RECIPE)
    assert steps == ["Fetch", "Convert", "Quantize", "Compile", "Evaluate", "Publish"]
    manifest = published.manifest
    assert sorted(file.path for file in manifest.files) == FILES
    assert (manifest.entrypoint, manifest.format) == ("qnn.json", "qnn")
    assert manifest.tools["onnxruntime-qnn"] == "2.7.0"
    assert manifest.tools["qnn"].startswith("2.")
    assert manifest.quality
    assert float(manifest.quality.accuracy) > 0.999
    assert said["quality"]["cosine"] == manifest.quality.cosine
    artifact = tmp_path / "work" / "make" / "artifact"
    assert json.loads((artifact / "qnn.json").read_text()) == {
        "length": 64,
        "pooling": "mean",
        "normalize": True,
        "soc": "SM8650",
        "socModel": 57,
        "htpArchitecture": "v75",
        "qnnSdk": manifest.tools["qnn"],
    }
    _make_again(qnn, qnn_source, tmp_path / "elsewhere")
    assert {name: (artifact / name).read_bytes() for name in FILES} == {
        name: (tmp_path / "elsewhere" / name).read_bytes() for name in FILES
    }, "the same recipe makes the same bytes"


def _make_again(qnn: Packages, source: Path, folder: Path) -> None:
    folder.mkdir()
    full = folder.with_suffix(".onnx")
    steps: list[tuple[str | Path, ...]] = [
        ("convert", source, full),
        ("quantize", source, full, folder, DEFAULT_SCHEME),
        ("compile", source, folder, TARGET),
    ]
    for step, *arguments in steps:
        done = qnn.run("-m", "edgemodel.pipeline.steps", f"edgemodel.pipeline.qnn_steps:{step}", *arguments)
        assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_simulator_answers_as_the_model_would(qnn_turned: dict[str, Any], scheme: str) -> None:
    assert min(qnn_turned["cosines"][scheme]) > (0.999 if SCHEMES[scheme].activations == 8 else 0.9995)


def test_fewer_bits_make_fewer_bytes(qnn_turned: dict[str, Any]) -> None:
    sizes = [qnn_turned["bytes"][scheme] for scheme in SCHEMES]
    assert sizes == sorted(sizes)


def test_a_real_model_keeps_its_sense(qnn_turned: dict[str, Any]) -> None:
    assert min(qnn_turned["minilm"]) > 0.998


@pytest.mark.parametrize("target", sorted(map(target_of, SNAPDRAGONS)))
def test_all_of_the_model_is_compiled_for_each_chip(qnn_turned: dict[str, Any], target: str) -> None:
    soc = soc_of(target)
    assert qnn_turned["targets"][target] == {
        "operators": ["EPContext"],
        "soc": {"X1E80100": "SC8380XP"}.get(soc, soc),
        "htp": SNAPDRAGONS[soc].htp.removeprefix("v"),
    }


REFUSE = """
import json, sys
from pathlib import Path
from edgemodel.pipeline.errors import PipelineError
from edgemodel.pipeline.qnn_steps import convert, quantize
said = {}
for model in map(Path, sys.argv[1:]):
    try:
        convert(str(model), str(model / "full.onnx"))
        quantize(str(model), str(model / "full.onnx"), str(model), "A16W8")
    except PipelineError as error:
        said[model.name] = [error.reason, str(error)]
print(json.dumps(said))
"""


def _changed(source: Path, folder: Path, **changes: Any) -> Path:
    config = Path(shutil.copytree(source, folder)) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    return folder


def test_what_cannot_be_made_is_refused_and_no_code_in_it_runs(qnn: Packages, qnn_source: Path, tmp_path: Path) -> None:
    code = _changed(
        qnn_source,
        tmp_path / "code",
        model_type="letters",
        architectures=["LetterModel"],
        auto_map={"AutoConfig": "code.Config", "AutoModel": "code.Model"},
    )
    (code / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    quantized = _changed(qnn_source, tmp_path / "quantized", quantization_config={"bits": 4})
    weights = _changed(qnn_source, tmp_path / "weights")
    (weights / "model.safetensors").write_bytes(safetensors(("a", "F32", [4], 16)))
    tokenizer = _changed(qnn_source, tmp_path / "tokenizer")
    (tokenizer / "tokenizer.json").unlink()
    done = qnn.run("-c", REFUSE, code, quantized, weights, tokenizer, folder=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert {name: reason for name, (reason, _) in said.items()} == {
        "code": "UnsupportedArchitecture",
        "quantized": "SourceUnsupported",
        "weights": "QuantizationFailed",
        "tokenizer": "UnsupportedArchitecture",
    }
    assert "LetterModel" in said["code"][1]
    assert not (tmp_path / "ran").exists()


MAKE = """
import sys
from pathlib import Path
from edgemodel.api.artifact import Recipe, Source
from edgemodel.pipeline.errors import PipelineError
from edgemodel.pipeline.progress import Reporter
from edgemodel.pipeline.qnn import Qnn
from edgemodel.pipeline.resolve import resolve
from edgemodel.pipeline.sources import open_source
model, work, recipe = Path(sys.argv[1]), Path(sys.argv[2]), Recipe.model_validate_json(sys.argv[3])
source = open_source(Source(uri=f"pvc://claim/{model.name}"), {"PVC_ROOT": str(model.parent)})
reporter = Reporter(lambda _: None)
try:
    Qnn().make(model, resolve(source).resolved, recipe, work, reporter.step)
except PipelineError as error:
    print(error.termination())
reporter.close()
"""


def test_what_the_htp_lacks_is_named(qnn: Packages, qnn_source: Path, tmp_path: Path) -> None:
    model = _changed(qnn_source, tmp_path / "laplace", hidden_act="laplace")
    work = tmp_path / "work"
    work.mkdir()
    done = qnn.run("-c", MAKE, model, work, RECIPE.model_dump_json())
    assert done.returncode == 0, done.stderr[-4000:]
    (said,) = [json.loads(line) for line in done.stdout.splitlines() if '"reason"' in line]
    assert said["reason"] == "QuantizationFailed"
    assert "the HTP does not have Erf, which the model needs" in said["message"]
