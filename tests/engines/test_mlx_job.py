"""MLX's toolchain: every scheme of a real model, the whole Job, and what it refuses."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgemodel.api.artifact import Recipe, Source
from edgemodel.pipeline import errors
from edgemodel.pipeline.mlx import Mlx as Toolchain
from edgemodel.pipeline.mlx_schemes import DEFAULT_SCHEME, SCHEMES, runtime_schemes
from edgemodel.pipeline.progress import Reporter
from edgemodel.pipeline.resolve import resolve
from edgemodel.pipeline.sources import open_source
from tests.engines.whole_job import run_job
from tests.mlx import Mlx
from tests.s3 import S3
from tests.unit.pipeline.models import TINYSAWYER, first_block, llama_gguf, safetensors

ADAPTED = """
import json, sys
from pathlib import Path
import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load_model
from edgemodel.pipeline.fuse import fuse
source, adapter, fused = map(Path, sys.argv[1:])
tokens = mx.array([[1, 17, 300, 5, 999, 42, 7, 450]])
chances = lambda model: mx.softmax(model(tokens).astype(mx.float32), axis=-1)
model, _ = load_model(source)
plain = chances(model)
parameters = {"rank": 4, "scale": 6.0, "dropout": 0.0}
linear_to_lora_layers(model, 4, parameters)
mx.random.seed(1)
trained = {name: mx.random.normal(value.shape) * 0.05
           for name, value in tree_flatten(model.parameters()) if ".lora_" in name}
model.load_weights(list(trained.items()), strict=False)
with_adapter = chances(model)
adapter.mkdir()
mx.save_safetensors(str(adapter / "adapters.safetensors"), trained)
config = {"fine_tune_type": "lora", "num_layers": 4, "lora_parameters": parameters}
(adapter / "adapter_config.json").write_text(json.dumps(config))
fuse(source, adapter, fused)
model, _ = load_model(fused)
far = lambda other: mx.abs(with_adapter - other).sum(axis=-1).max().item()
print(json.dumps({"fused": far(chances(model)), "plain": far(plain)}))
"""

CONVERT = ("-m", "edgemodel.pipeline.steps", "edgemodel.pipeline.mlx_convert:convert")
pytestmark = pytest.mark.xdist_group("mlx")  # they share what takes long to make
PARAMETERS = 3_672_320
"""Tinysawyer's."""


def _edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _model(folder: Path, **changes: object) -> Path:
    """Tinysawyer, with another configuration."""
    model = shutil.copytree(TINYSAWYER, folder / "model")
    _edit(model / "config.json", **changes)
    return model


# Every scheme


@pytest.fixture(scope="module")
def schemes(mlx: Mlx, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with tinysawyer as MLX has it, unquantized (`full`) and in every scheme, and what was found out."""
    folder = tmp_path_factory.mktemp("schemes")
    mlx.said(*CONVERT, TINYSAWYER, folder / "full", "F16")
    lines = mlx.said(Path(__file__).with_name("mlx_make.py"), folder / "full", folder, *SCHEMES).splitlines()
    found = [json.loads(line) for line in lines if line.startswith("{")]
    return folder, {one["scheme"]: one for one in found}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_has_its_bits_and_answers(schemes: tuple[Path, dict[str, Any]], scheme: str) -> None:
    folder, found = schemes
    one, quality = found[scheme], found[scheme]["quality"]
    # The mixed recipes' bits are for another model, and headers and norms weigh something in one as small as this.
    assert 8 * one["weights"] / PARAMETERS == pytest.approx(float(SCHEMES[scheme].bits), rel=0.12, abs=0.1)
    bits = SCHEMES[scheme].width or 16
    assert float(quality["klDivergence"]) < {2: 3, 3: 0.3, 4: 0.05}.get(bits, 0.01)
    assert float(quality["accuracy"]) > {2: 0.1, 3: 0.8, 4: 0.95}.get(bits, 0.99)
    assert one["answer"]
    assert one["finish"] in ("length", "stop")
    config = json.loads((folder / scheme / "config.json").read_text())
    assert ("quantization" in config) == (bits < 16)


def test_more_bits_are_better(schemes: tuple[Path, dict[str, Any]]) -> None:
    divergence = {scheme: float(one["quality"]["klDivergence"]) for scheme, one in schemes[1].items()}
    for better, worse in (
        ("BF16", "8bit"), ("8bit", "6bit"), ("6bit", "5bit"), ("5bit", "4bit"), ("4bit", "3bit"), ("3bit", "2bit"),
        ("4bit-gs32", "4bit"), ("4bit", "4bit-gs128"), ("mixed_4_6", "4bit"), ("mixed_3_6", "mixed_3_4"),
        ("mixed_3_4", "3bit"), ("mixed_2_6", "2bit"), ("mxfp8", "mxfp4"), ("nvfp4", "mxfp4"),
    ):  # fmt: skip
        assert divergence[better] < divergence[worse], (better, worse)


@pytest.mark.parametrize("scheme", ["4bit", "mixed_3_6", "BF16"])
def test_the_same_model_and_scheme_give_the_same_bytes(
    mlx: Mlx, schemes: tuple[Path, dict[str, Any]], tmp_path: Path, scheme: str
) -> None:
    folder, _ = schemes
    mlx.said(*CONVERT, folder / "full", tmp_path / scheme, scheme)
    made = {file.name: file.read_bytes() for file in (tmp_path / scheme).iterdir()}
    assert made == {file.name: file.read_bytes() for file in (folder / scheme).iterdir()}
    assert "model.safetensors" in made
    assert "tokenizer.model" in made


def test_an_edge_runtime_can_list_the_schemes() -> None:
    names = [scheme.name for scheme in runtime_schemes()]
    assert DEFAULT_SCHEME in names
    assert [float(scheme.bits) for scheme in SCHEMES.values()] == sorted(float(one.bits) for one in SCHEMES.values())


# The whole Job


def test_the_job_publishes_what_mlx_lm_loads(mlx: Mlx, s3: S3, tmp_path: Path) -> None:
    first_block(tmp_path / "volume" / "model")
    recipe = Recipe(toolchain="mlx", toolchain_version="test", scheme="4bit")
    steps, said, published = run_job(mlx, s3, tmp_path, recipe)
    assert steps == ["Fetch", "Convert", "Quantize", "Evaluate", "Measure", "Publish"]
    assert said["quality"]["tokens"] == 8 * 255
    assert 0 < float(said["quality"]["klDivergence"]) < 0.05
    assert 3 < said["baselineBytes"] / said["bytes"] < 4
    manifest = published.manifest
    assert (manifest.format, manifest.entrypoint) == ("mlx", "config.json")
    assert sorted(file.path for file in manifest.files) == [
        "config.json", "generation_config.json", "model.safetensors", "model.safetensors.index.json",
        "tokenizer.model", "tokenizer_config.json",
    ]  # fmt: skip
    assert manifest.tools["mlx-lm"]


# What it refuses

Make = Callable[..., Path]


@pytest.fixture
def make(mlx: Mlx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes 4bit of the model in a folder, up to where it would be evaluated, and returns the artifact."""
    monkeypatch.setattr("sys.executable", str(mlx.python))
    monkeypatch.setenv("PYTHONPATH", mlx.env["PYTHONPATH"])
    work = tmp_path / "work"

    def make_of(model: Path, scheme: str = DEFAULT_SCHEME) -> Path:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        source = Source(uri=f"pvc://claim/{model.name}")
        resolved = resolve(open_source(source, {"PVC_ROOT": str(model.parent)})).resolved
        recipe = Recipe(toolchain="mlx", toolchain_version="test", scheme=scheme)
        reporter = Reporter(lambda _: None)
        try:
            Toolchain().check(recipe)
            monkeypatch.setattr("edgemodel.pipeline.mlx._evaluate", lambda *_: None)
            monkeypatch.setattr("edgemodel.pipeline.mlx.measure", lambda *_: None)
            monkeypatch.setattr("edgemodel.pipeline.mlx.version", lambda _: "test")
            return Toolchain().make(model, resolved, recipe, work, reporter.step).folder
        finally:
            reporter.close()

    return make_of


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(errors.UnknownSchemeError, match=r"use one of .*4bit"):
        Toolchain().check(Recipe(toolchain="mlx", toolchain_version="test", scheme="Q4_K_M"))


def test_gguf_is_refused(make: Make, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.gguf").write_bytes(llama_gguf())
    with pytest.raises(errors.SourceUnsupportedError, match="safetensors"):
        make(tmp_path / "model")


@pytest.mark.parametrize("kind", ["tinysawyer", "base"])  # the second is a module of mlx-lm, but no model
def test_an_unsupported_architecture_is_named(make: Make, tmp_path: Path, kind: str) -> None:
    with pytest.raises(errors.UnsupportedArchitectureError, match=kind):
        make(_model(tmp_path, model_type=kind, tokenizer_class="LlamaTokenizer"))


def test_a_model_that_is_code_is_refused_and_not_run(make: Make, tmp_path: Path) -> None:
    model = _model(tmp_path, model_file="code.py")
    (model / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(errors.UnsupportedArchitectureError, match="never run"):
        make(model)
    assert not (tmp_path / "ran").exists()


def test_code_that_a_model_could_do_without_is_not_run_and_left_out(make: Make, tmp_path: Path) -> None:
    model = _model(tmp_path, auto_map={"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"})
    (model / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    _edit(model / "tokenizer_config.json", auto_map={"AutoTokenizer": ["code.Tokenizer", None]})
    artifact = make(model)
    assert not (tmp_path / "ran").exists()
    assert not [file.name for file in artifact.iterdir() if file.suffix == ".py" or b"auto_map" in file.read_bytes()]


def test_weights_that_do_not_fit_the_config_are_told(make: Make, tmp_path: Path) -> None:
    model = _model(tmp_path)
    (model / "model.safetensors").write_bytes(safetensors(("a", "F16", [4], 8)))
    with pytest.raises(errors.QuantizationFailedError, match=r"could not make B?F16"):
        make(model)


def test_weights_of_other_names_are_told(make: Make, tmp_path: Path) -> None:
    model = _model(tmp_path)
    (model / "model.safetensors").rename(model / "weights.safetensors")
    with pytest.raises(errors.SourceUnsupportedError, match=r"model\*\.safetensors"):
        make(model)


def test_a_quantized_model_is_refused(make: Make, schemes: tuple[Path, dict[str, Any]]) -> None:
    with pytest.raises(errors.SourceUnsupportedError, match="quantized already"):
        make(schemes[0] / "8bit")


def test_a_model_too_narrow_for_the_groups_is_told(mlx: Mlx, make: Make, tmp_path: Path) -> None:
    model = _model(tmp_path, hidden_size=32, intermediate_size=96, num_hidden_layers=1, head_dim=8)
    random = "import sys; from pathlib import Path; from mlx_lm.models.llama import *; from mlx_lm.utils import *; "
    random += "save_model(sys.argv[1], Model(ModelArgs.from_dict(load_config(Path(sys.argv[1])))))"
    mlx.said("-c", random, model)
    with pytest.raises(errors.QuantizationFailedError, match="smaller groups"):
        make(model, "4bit")
    assert make(model, "4bit-gs32")


def test_a_tokenizer_that_nobody_knows_is_told(make: Make, tmp_path: Path) -> None:
    model = _model(tmp_path)
    os.truncate(model / "tokenizer.model", 10)
    with pytest.raises(errors.UnsupportedArchitectureError, match="tokenizer"):
        make(model)


# An adapter


def test_a_fused_adapter_predicts_as_mlx_lm_does_with_the_adapter(mlx: Mlx, tmp_path: Path) -> None:
    """By the sum of what the probabilities of all tokens differ, from 0 to 2, at the token where it is most."""
    said = mlx.said("-c", ADAPTED, TINYSAWYER, tmp_path / "adapter", tmp_path / "fused")
    far = json.loads(said.splitlines()[-1])
    assert far["plain"] > 0.2
    assert far["fused"] < far["plain"] / 10
