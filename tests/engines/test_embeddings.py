"""A model that embeds: its Jobs, what its artifacts are worth, and the engines that serve them.

The engines of ONNX Runtime and OpenVINO are those of the front; llama.cpp's is the one that its Job judges by, beside
llama-server itself.
"""

import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from openai import APIStatusError, OpenAI

from edgemodel.api.artifact import Recipe
from edgemodel.pipeline.texts import calibration_digest
from edgemodel.store.artifacts import Published
from hack.cluster.controlplane import free_ports
from tests.engines.whole_job import run_job
from tests.llamacpp import LlamaCpp
from tests.minilm import CONTEXT_LENGTH, WIDTH
from tests.packages import Packages
from tests.s3 import S3, new_bucket

TOOLCHAINS = [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in ("llamacpp", "onnx", "openvino")]

IN_THE_JOB = {"llamacpp": "Q4_K_M", "onnx": "INT8_STATIC", "openvino": "INT4_ASYM_AWQ"}
"""Toolchain -> the scheme that the whole Job makes: one that is calibrated."""
LEAST_COSINES = {
    "llamacpp": {"Q4_K_M": 0.985, "Q2_K": 0.93, "Q8_0": 0.999},
    "onnx": {
        "INT4": 0.95, "INT4_K_QUANT": 0.95, "INT8_DYNAMIC": 0.985, "INT8_STATIC": 0.9, "INT8": 0.998,
    },
    "openvino": {"INT4_ASYM_AWQ": 0.93, "INT4_SYM": 0.92, "INT8": 0.998},
}  # fmt: skip
FILES = {
    "llamacpp": {"model.gguf"},
    "onnx": {"model.onnx", "model.onnx.data", "tokenizer.json"},
    "openvino": {
        "1_Pooling/config.json", "config.json", "graph.pbtxt", "modules.json", "openvino_detokenizer.bin",
        "openvino_detokenizer.xml", "openvino_model.bin", "openvino_model.xml", "openvino_tokenizer.bin",
        "openvino_tokenizer.xml", "tokenizer.json", "tokenizer_config.json",
    },
}  # fmt: skip


@dataclass(frozen=True)
class Made:
    """What became of the model."""

    toolchain: str
    packages: Packages
    work: Path
    steps: list[str]
    said: dict[str, Any]
    published: Published
    schemes: dict[str, dict[str, Any]]
    engine: dict[str, Any]

    @property
    def artifact(self) -> Path:
        """The artifact's folder."""
        return self.work / "artifact"


def _recipe(toolchain: str, scheme: str) -> Recipe:
    calibrated = import_module(f"edgemodel.pipeline.{toolchain}_schemes").SCHEMES[scheme].calibrated
    return Recipe(
        toolchain=toolchain,
        toolchain_version="test",
        scheme=scheme,
        task="Embeddings",
        calibration=calibration_digest() if calibrated else None,
    )


@pytest.fixture(scope="module", params=TOOLCHAINS)
def made(request: pytest.FixtureRequest, minilm: Path, s3_server: S3, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """MiniLM by each toolchain: the whole Job, and more schemes of what it left."""
    toolchain: str = request.param
    packages: Packages = request.getfixturevalue(toolchain)
    folder = tmp_path_factory.mktemp(toolchain)
    shutil.copytree(minilm, folder / "volume" / "model")
    steps, said, published = run_job(packages, new_bucket(s3_server), folder, _recipe(toolchain, IN_THE_JOB[toolchain]))
    work = folder / "work" / "make"
    others = [scheme for scheme in LEAST_COSINES[toolchain] if scheme != IN_THE_JOB[toolchain]]
    script = Path(__file__).with_name("embedding_turn.py")
    done = packages.run(script, toolchain, minilm, work, *others, folder=work)
    assert done.returncode == 0, done.stderr[-4000:]
    *schemes, engine = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return Made(toolchain, packages, work, steps, said, published, {one["scheme"]: one for one in schemes}, engine)


def test_the_job_publishes_an_artifact_that_embeds(made: Made) -> None:
    convert_and_more = made.steps[1:-3]
    assert made.steps[0] == "Fetch"
    assert convert_and_more[0] == "Convert"
    assert convert_and_more[-1] == "Quantize"
    assert made.steps[-3:] == ["Evaluate", "Measure", "Publish"]
    manifest = made.published.manifest
    assert {file.path for file in manifest.files} == FILES[made.toolchain]
    assert manifest.entrypoint in FILES[made.toolchain]
    assert manifest.recipe.task == "Embeddings"
    assert made.said["baselineBytes"] / made.said["bytes"] > 2
    quality = made.said["quality"]
    assert LEAST_COSINES[made.toolchain][IN_THE_JOB[made.toolchain]] < float(quality["cosine"]) < 1
    assert quality["accuracy"] == quality["cosine"] > quality["leastCosine"]
    assert "perplexity" not in quality
    assert 1500 < quality["tokens"] < 3000


def test_a_scheme_is_worth_what_it_should_be(made: Made) -> None:
    for scheme, one in made.schemes.items():
        assert LEAST_COSINES[made.toolchain][scheme] < float(one["cosine"]) <= 1, scheme
    sizes = sorted(made.schemes.values(), key=lambda one: int(one["bytes"]))
    assert float(sizes[0]["cosine"]) < float(sizes[-1]["cosine"])


def test_the_unquantized_model_embeds_as_its_authors_have_it(made: Made) -> None:
    assert made.engine["same tokens"]
    assert min(made.engine["as the model's authors"]) > 0.9999


def test_texts_of_several_lengths_share_a_batch(made: Made) -> None:
    assert min(made.engine["in batches"]) > 0.9999


def test_a_whole_context_is_embedded_and_no_text_is_cut(made: Made) -> None:
    assert made.engine["of a whole context"] == WIDTH
    assert made.engine["long text"] == 1002
    assert made.engine["vocabulary"] == 30_522


def test_what_is_no_model_is_told(made: Made) -> None:
    assert "nothing" in made.engine["refused"] or "cannot load" in made.engine["refused"]


# What serves it, as a pod starts it


def _server(made: Made, port: int) -> tuple[list[str | Path], dict[str, str]]:
    """The command and the environment of what serves the artifact."""
    if isinstance(made.packages, LlamaCpp):
        size = str(CONTEXT_LENGTH)
        options = [
            "--ctx-size",
            str(2 * CONTEXT_LENGTH),
            "--parallel",
            "2",
            "--threads",
            "1",
            "--metrics",
            "--embeddings",
        ]
        options += ["--batch-size", size, "--ubatch-size", size, "--alias", "minilm", "--port", str(port)]
        return [made.packages.home / "bin" / "llama-server", "--model", made.artifact / "model.gguf", *options], {}
    environ = {
        "MODEL_DIR": str(made.artifact),
        "MODEL_NAME": "minilm",
        "PORT": str(port),
        "HOST": "127.0.0.1",
        "CONTEXT_LENGTH": str(CONTEXT_LENGTH),
        "PARALLEL": "2",
        "THREADS": "1",
        "TASK": "Embeddings",
    }
    engine = {"onnx": "onnxruntime", "openvino": "openvino"}[made.toolchain]
    return [made.packages.python, "-m", "edgemodel.serve", engine], environ


@contextmanager
def _served(made: Made) -> Iterator[str]:
    """The server's address, until the block ends: then it must end well."""
    (port,) = free_ports(1)
    command, environ = _server(made, port)
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, env=made.packages.env | environ, stderr=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + 300
            while not _healthy(url):
                assert server.poll() is None, "it ended"
                assert time.monotonic() < deadline, "it does not answer"
                time.sleep(0.05)
            yield url
        finally:
            server.terminate()
            assert server.wait(120) == 0


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


PROMPT_TOKENS = {"llamacpp": "llamacpp:prompt_tokens_total"}


def test_the_official_client_is_answered(made: Made) -> None:
    with _served(made) as url, OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["minilm"]
        texts = ["A cat sat on the mat.", "A kitten was sitting on a rug.", "The stock market fell sharply."]
        answer = client.embeddings.create(model="minilm", input=texts)  # asks for base64
        cat, kitten, market = (one.embedding for one in answer.data)
        assert len(cat) == WIDTH
        assert sum(value * value for value in cat) == pytest.approx(1, abs=1e-3)
        alike, different = (sum(map(float.__mul__, cat, other)) for other in (kitten, market))
        assert alike > 0.5 > 0.3 > different
        assert answer.usage.prompt_tokens == answer.usage.total_tokens > 20
        numbers = client.embeddings.create(model="minilm", input=texts[:1], encoding_format="float")
        assert numbers.data[0].embedding == pytest.approx(cat, abs=0.05)
        with pytest.raises(APIStatusError, match="602"):
            client.embeddings.create(model="minilm", input="word " * 600)
        with urllib.request.urlopen(f"{url}/metrics") as metrics:
            counted = [line.split() for line in metrics.read().decode().splitlines() if not line.startswith("#")]
        name = PROMPT_TOKENS.get(made.toolchain, "edgemodel_serve_prompt_tokens_total")
        assert float(dict(counted)[name]) >= answer.usage.prompt_tokens
