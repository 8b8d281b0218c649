"""The whole Job, natively: a real model, a real llama.cpp, a real S3."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgemodel.api.artifact import Recipe, Source
from edgemodel.api.base import ApiModel
from edgemodel.core.keys import artifact_key
from edgemodel.pipeline.headers import Gguf, read_gguf
from edgemodel.pipeline.job import JobRequest
from edgemodel.pipeline.llamacpp_schemes import SCHEMES
from edgemodel.pipeline.resolve import resolve
from edgemodel.pipeline.sources import open_source
from edgemodel.pipeline.texts import calibration_digest, calibration_text, held_out_text
from edgemodel.store.artifacts import ArtifactStore, Published
from tests.llamacpp import LlamaCpp
from tests.s3 import ACCESS_KEY, S3, SECRET_KEY
from tests.unit.pipeline.models import TINYSAWYER, first_block, llama_gguf, safetensors


class Job:
    """A Job as the operator would start it, for a model on a volume."""

    def __init__(self, s3: S3, tmp_path: Path) -> None:
        self.s3 = s3
        self.volume = tmp_path / "volume"
        self.work = tmp_path / "work"
        self.left = tmp_path / "termination"
        self.python: Path | str = sys.executable
        self.env: dict[str, str] = dict(os.environ)
        shutil.copytree(TINYSAWYER, self.volume / "tiny")

    def using(self, llamacpp: LlamaCpp) -> "Job":
        self.python, self.env = llamacpp.python, llamacpp.env
        return self

    def request(self, scheme: str = "Q4_K_M", path: str = "tiny") -> JobRequest:
        source = Source(uri=f"pvc://claim/{path}")
        resolved = resolve(open_source(source, {"PVC_ROOT": str(self.volume)})).resolved
        calibration = calibration_digest() if scheme in SCHEMES and SCHEMES[scheme].calibrated else None
        recipe = Recipe(toolchain="llamacpp", toolchain_version="test", scheme=scheme, calibration=calibration)
        return JobRequest(key=artifact_key(resolved, recipe), source=source, resolved=resolved, recipe=recipe)

    def start(self, request: ApiModel) -> "subprocess.Popen[str]":
        environ = {
            "EDGEMODEL_JOB": json.dumps(request.dump()),
            "EDGEMODEL_WORK": str(self.work),
            "EDGEMODEL_TERMINATION_LOG": str(self.left),
            "PVC_ROOT": str(self.volume),
        }
        return subprocess.Popen(
            [self.python, "-m", "edgemodel.pipeline"],
            env=self.env | self.s3.env | environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, request: ApiModel) -> tuple[int, dict[str, Any], list[dict[str, Any]]]:
        """Exit code, termination message, log."""
        with self.start(request) as running:
            output, _ = running.communicate()
        said: dict[str, Any] = json.loads(self.left.read_text())
        assert SECRET_KEY not in output + self.left.read_text()
        return running.returncode, said, [json.loads(line) for line in output.splitlines()]

    def published(self, key: str) -> Published | None:
        """The artifact in the store, which must be whole if it is there."""
        store = ArtifactStore(self.s3.config)
        found = store.read_manifest(key)
        assert found is None or store.is_whole(found.manifest)
        return found

    def blob(self, published: Published) -> Path:
        (file,) = published.manifest.files
        return self.s3.files / self.s3.config.prefix / "blobs" / "sha256" / file.sha256.removeprefix("sha256:")


@pytest.fixture
def job(s3: S3, tmp_path: Path) -> Job:
    return Job(s3, tmp_path)


def _header(path: Path) -> Gguf:
    data = path.read_bytes()
    return read_gguf(path.name, len(data), lambda start, size: data[start : start + size])


# Refusals, which need no llama.cpp


def test_an_unknown_scheme_is_refused_before_anything_is_fetched(job: Job) -> None:
    code, said, log = job.run(job.request("Q4_K_XXL"))
    assert (code, said["reason"], said["retry"]) == (1, "UnknownScheme", False)
    assert "Q4_K_M" in said["message"]
    assert not [line for line in log if line.get("step") == "Fetch"]


def test_another_calibration_text_is_refused(job: Job) -> None:
    request = job.request()
    recipe = request.recipe.model_copy(update={"calibration": "sha256:" + 64 * "0"})
    code, said, _ = job.run(request.model_copy(update={"recipe": recipe}))
    assert (code, said["reason"]) == (1, "CalibrationMismatch")


def test_a_source_that_changed_since_it_was_pinned_is_refused(job: Job) -> None:
    request = job.request()
    (job.volume / "tiny" / "tokenizer_config.json").write_text("{}")
    code, said, _ = job.run(request)
    assert (code, said["reason"], said["retry"]) == (1, "SourceChanged", False)


def test_a_store_that_is_away_is_to_be_tried_later(job: Job) -> None:
    job.s3 = job.s3.through("http://127.0.0.1:9")
    code, said, _ = job.run(job.request())
    assert (code, said["reason"], said["retry"]) == (1, "StoreUnavailable", True)


def test_wrong_keys_for_the_store_are_told(job: Job, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    (wrong / "AWS_ACCESS_KEY_ID").write_text(ACCESS_KEY)
    (wrong / "AWS_SECRET_ACCESS_KEY").write_text(SECRET_KEY[::-1])
    job.s3 = replace(job.s3, config=replace(job.s3.config, credentials=wrong))
    code, said, _ = job.run(job.request())
    assert (code, said["reason"], said["retry"]) == (1, "StoreDenied", False)
    assert SECRET_KEY[::-1] not in said["message"]


def test_a_request_that_makes_no_sense_is_a_bug(job: Job) -> None:
    code, said, _ = job.run(Source(uri="pvc://claim/tiny"))
    assert (code, said["reason"]) == (1, "Internal")


# The real thing


def test_tinysawyer_becomes_an_artifact(job: Job, llamacpp: LlamaCpp) -> None:
    request = job.using(llamacpp).request("Q4_K_M")
    code, said, log = job.run(request)
    assert code == 0, log
    assert [line["step"] for line in log if line["message"] == "step"] == [
        "Fetch", "Convert", "Calibrate", "Quantize", "Evaluate", "Measure", "Publish",
    ]  # fmt: skip
    published = job.published(request.key)
    assert published
    assert said["manifestDigest"] == published.digest
    assert said["bytes"] == published.manifest.size
    quality = said["quality"]
    # 39.7 over all of the text, 53 over the tokens of it that are scored.
    assert 50 < float(quality["baselinePerplexity"]) < 57
    assert 0.97 < float(quality["accuracy"]) < 1.02
    assert 0 < float(quality["klDivergence"]) < 0.05
    assert 0.85 < float(quality["topTokenAgreement"]) <= 1
    assert quality["tokens"] == 8 * 255
    assert said["baselineBytes"] / said["bytes"] > 2.5
    header = _header(job.blob(published))
    assert header.weights.type == "Q4_K"
    assert header.metadata["general.file_type"] == SCHEMES["Q4_K_M"].ftype
    assert header.metadata["quantize.imatrix.chunks_count"] == 16
    assert published.manifest.tools["llama-cpp-python"]
    performance = ArtifactStore(job.s3.config).read_performance(request.key)
    assert performance
    assert performance.engine == f"llama.cpp {published.manifest.tools['llama-cpp-python']}"
    assert performance.processor
    assert float(performance.tokens_per_second) > 1
    speedup = float(performance.tokens_per_second) / float(performance.baseline_tokens_per_second)
    assert float(performance.speedup) == pytest.approx(speedup, abs=0.02)
    assert 10e6 < performance.memory_bytes < 1e9

    again, said_again, log = job.run(request)
    assert again == 0
    assert said_again == said
    assert not [line for line in log if line["message"] == "step"]


def test_a_quantized_source_is_dequantized_and_says_so(job: Job, llamacpp: LlamaCpp, tmp_path: Path) -> None:
    request = job.using(llamacpp).request("Q8_0")
    code, said, _ = job.run(request)
    published = job.published(request.key)
    assert code == 0
    assert published
    (job.volume / "q8").mkdir()
    shutil.copy(job.blob(published), job.volume / "q8" / "model.gguf")
    request = job.request("Q4_K_S", "q8/model.gguf")
    assert request.resolved.note == "dequantized from Q8_0"
    code, said, _ = job.run(request)
    assert code == 0
    assert said["baselineBytes"] > 7_000_000  # F16 again
    published = job.published(request.key)
    assert published
    assert published.manifest.source.note == "dequantized from Q8_0"


def test_an_unsupported_architecture_is_named(job: Job, llamacpp: LlamaCpp) -> None:
    config = json.loads((TINYSAWYER / "config.json").read_text()) | {"architectures": ["TinySawyerForCausalLM"]}
    (job.volume / "tiny" / "config.json").write_text(json.dumps(config))
    code, said, _ = job.using(llamacpp).run(job.request())
    assert (code, said["reason"], said["retry"]) == (1, "UnsupportedArchitecture", False)
    assert "TinySawyerForCausalLM" in said["message"]


@pytest.mark.parametrize("run", range(10))  # llama.cpp's own programs lose the reason one time in five
def test_an_unsupported_gguf_architecture_is_named(job: Job, llamacpp: LlamaCpp, run: int) -> None:
    (job.volume / "odd.gguf").write_bytes(llama_gguf().replace(b"llama", b"lhama"))
    code, said, _ = job.using(llamacpp).run(job.request(path="odd.gguf"))
    assert (code, said["reason"]) == (1, "UnsupportedArchitecture")
    assert "lhama" in said["message"]


def test_weights_that_do_not_fit_the_config_are_told(job: Job, llamacpp: LlamaCpp) -> None:
    (job.volume / "tiny" / "model.safetensors").write_bytes(safetensors(("a", "F16", [4], 8)))
    code, said, _ = job.using(llamacpp).run(job.request())
    assert (code, said["reason"], said["retry"]) == (1, "QuantizationFailed", False)


def test_a_full_scratch_volume_is_told(job: Job, llamacpp: LlamaCpp) -> None:
    job.work.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(job.work)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small volume needs root")
    try:
        code, said, _ = job.using(llamacpp).run(job.request())
    finally:
        subprocess.run(["umount", str(job.work)], check=True)
    assert (code, said["reason"], said["retry"]) == (1, "DiskFull", False)


def test_a_job_that_is_killed_in_any_step_leaves_one_whole_artifact_or_none(job: Job, llamacpp: LlamaCpp) -> None:
    request = job.using(llamacpp).request("Q4_K_M")
    for step in ("Fetch", "Convert", "Calibrate", "Quantize", "Evaluate", "Measure", "Publish"):
        with job.start(request) as running:
            assert running.stdout
            for line in running.stdout:
                if json.loads(line).get("step") == step:
                    break
            os.killpg(running.pid, signal.SIGKILL)
        job.published(request.key)
    code, said, _ = job.run(request)
    assert code == 0
    published = job.published(request.key)
    assert published
    assert published.digest == said["manifestDigest"]
    assert _header(job.blob(published)).weights.type == "Q4_K"


# The toolchain by itself


def _converted(llamacpp: LlamaCpp, model: Path, folder: Path) -> Path:
    """A folder with the model as GGUF, an importance matrix, and the texts."""
    converted = llamacpp.run(
        llamacpp.home / "convert" / "convert_hf_to_gguf.py", model, "--outfile", folder / "full.gguf",
        "--outtype", "f16",
    )  # fmt: skip
    assert converted.returncode == 0, converted.stderr
    (folder / "calibration.txt").write_bytes(calibration_text())
    (folder / "heldout.txt").write_bytes(held_out_text())
    llamacpp.program(
        "llama-imatrix", "-m", "full.gguf", "-f", "calibration.txt", "-o", "imatrix.gguf", "-c", "512", "-b", "512",
        "--chunks", "4", "-t", "1", folder=folder,
    )  # fmt: skip
    return folder


QUANTIZE = """
from pathlib import Path
from edgemodel.pipeline.llamacpp_quantize import quantize
from edgemodel.pipeline.llamacpp_schemes import SCHEMES
for name, scheme in SCHEMES.items():
    imatrix = Path("imatrix.gguf") if scheme.calibrated else None
    quantize(Path("full.gguf"), Path(f"ours-{name}.gguf"), name, 1, imatrix)
"""


@pytest.fixture(scope="session")
def schemes(llamacpp: LlamaCpp, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tinysawyer's first block, converted, and in every scheme as `ours-SCHEME.gguf`: in one process, for
    the tables of some schemes take seconds to make."""
    folder = tmp_path_factory.mktemp("block")
    _converted(llamacpp, first_block(folder / "model"), folder)
    done = llamacpp.run("-c", QUANTIZE, folder=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.xdist_group("llamacpp-schemes")
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_has_the_bytes_of_llama_quantize(llamacpp: LlamaCpp, schemes: Path, scheme: str) -> None:
    options = ["--imatrix", "imatrix.gguf"] if SCHEMES[scheme].calibrated else []
    llamacpp.program("llama-quantize", *options, "full.gguf", "theirs.gguf", scheme, "1", folder=schemes)
    assert (schemes / f"ours-{scheme}.gguf").read_bytes() == (schemes / "theirs.gguf").read_bytes()


def test_the_schemes_are_those_of_llama_quantize(llamacpp: LlamaCpp) -> None:
    said = subprocess.run(
        [llamacpp.home / "bin" / "llama-quantize", "--help"], capture_output=True, text=True, check=False
    )
    lines = [line.split() for line in (said.stdout + said.stderr).splitlines() if "  or  " in line]
    offered = {words[2]: int(words[0]) for words in lines if "alias" not in words}
    assert {name: scheme.ftype for name, scheme in SCHEMES.items()} == offered


def test_the_quality_report_is_right(llamacpp: LlamaCpp, tmp_path: Path) -> None:
    """The same figures by other means: logits through the binding, arithmetic in numpy."""
    full = _converted(llamacpp, TINYSAWYER, tmp_path)
    unquantized, model = full / "full.gguf", full / "model.gguf"
    llamacpp.program("llama-quantize", "--imatrix", "imatrix.gguf", unquantized, model, "Q3_K_S", "1", folder=full)
    work = tmp_path / "work"
    work.mkdir()
    code = """
import sys
from pathlib import Path
from edgemodel.pipeline.llamacpp import LlamaCpp
from edgemodel.pipeline.progress import Reporter
full, model, work = map(Path, sys.argv[1:])
report = LlamaCpp()._evaluate(full, model, 512, work, Reporter(lambda _: None).step("Evaluate"))
Path(work, "report.json").write_text(report.model_dump_json())
"""
    done = llamacpp.run("-c", code, unquantized, model, work)
    assert done.returncode == 0, done.stderr
    report = json.loads((work / "report.json").read_text())
    by_hand = llamacpp.run(Path(__file__).with_name("by_hand.py"), unquantized, model, full / "heldout.txt", "512", "8")
    assert by_hand.returncode == 0, by_hand.stderr
    figures = json.loads(by_hand.stdout)
    assert report["tokens"] == figures["tokens"]
    assert float(report["baseline_perplexity"]) == pytest.approx(figures["baseline"], rel=1e-4)
    # Quantized weights meet activations that are rounded to 8 bits, which a batch of another shape rounds elsewhere.
    assert float(report["perplexity"]) == pytest.approx(figures["perplexity"], rel=2e-3)
    assert float(report["kl_divergence"]) == pytest.approx(figures["divergence"], rel=0.02)
    assert float(report["top_token_agreement"]) == pytest.approx(figures["agreement"], abs=5e-3)
    assert float(report["accuracy"]) == pytest.approx(figures["baseline"] / figures["perplexity"], rel=2e-3)
