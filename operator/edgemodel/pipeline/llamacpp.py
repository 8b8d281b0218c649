"""llama.cpp: safetensors or GGUF in, one quantized GGUF file out.

Its own converter, `llama-imatrix` and `llama-perplexity` run as programs; quantizing goes through its Python binding,
in a process of its own. All of them are of the one llama.cpp tree at LLAMACPP_HOME.
"""

import math
import re
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from edgemodel.api.artifact import QualityReport, Recipe, ResolvedSource
from edgemodel.api.base import decimal
from edgemodel.core.sizing import BATCH_TOKENS, HELD_OUT_TOKENS
from edgemodel.pipeline import texts
from edgemodel.pipeline.children import ChildFailedError, run_child
from edgemodel.pipeline.cpus import threads
from edgemodel.pipeline.embed import evaluate_embeddings
from edgemodel.pipeline.embeddings import Pooling
from edgemodel.pipeline.errors import (
    EvaluationFailedError,
    QuantizationFailedError,
    SourceUnsupportedError,
    UnsupportedArchitectureError,
)
from edgemodel.pipeline.headers import UNQUANTIZED, read_gguf
from edgemodel.pipeline.llamacpp_home import llamacpp_home
from edgemodel.pipeline.llamacpp_schemes import SCHEMES
from edgemodel.pipeline.measure import LLAMACPP, measure
from edgemodel.pipeline.progress import Step
from edgemodel.pipeline.toolchain import Product, check_recipe

CALIBRATION_TOKENS = 8192
ENTRYPOINT = "model.gguf"

_TRIES = 4
"""llama.cpp's programs log on a thread that they do not wait for at their end: seldom, the last lines are lost."""

_WRITING = re.compile(r"Writing:\s+(?P<percent>\d+)%")
_TENSOR = re.compile(r"\[\s*(?P<done>\d+)/\s*(?P<total>\d+)\]")
_CHUNKS = re.compile(r"over (?P<total>\d+) chunks")
_CHUNK = re.compile(r"(?:\[(?P<scored>\d+)\]|^\s*(?P<compared>\d+)\s+[\d.]+ ±)")
_FIGURES = {
    "perplexity": re.compile(r"Mean PPL\(Q\)\s*:\s*(\S+)"),
    "baseline": re.compile(r"Mean PPL\(base\)\s*:\s*(\S+)"),
    "divergence": re.compile(r"Mean\s+KLD:\s*(\S+)"),
    "agreement": re.compile(r"Same top p:\s*(\S+)"),
}
_UNSUPPORTED = re.compile(
    r"Model (?P<converter>\S+) is not supported|unknown model architecture: '(?P<loader>[^']*)'"
    r"|(?P<tokenizer>BPE pre-tokenizer was not recognized)"
)

_NO_END = "tokenizer.ggml.add_eos_token=bool:false,tokenizer.ggml.add_sep_token=bool:false"
_POOLS = (1, 2, 3)
"""Mean, CLS and last in `enum llama_pooling_type`: those that make an embedding of a text."""


class LlamaCpp:
    """Makes GGUF artifacts."""

    def __init__(self) -> None:
        self._home = llamacpp_home()
        self._threads = threads()

    def check(self, recipe: Recipe) -> None:
        """Refuses a scheme that llama.cpp has not, or a calibration text that this image has not."""
        check_recipe("llama.cpp", SCHEMES, recipe)

    def make(
        self, source: Path, resolved: ResolvedSource, recipe: Recipe, work: Path, begin: Callable[[str], Step]
    ) -> Product:
        """Converts, calibrates, quantizes and evaluates."""
        step = begin("Convert")
        embeds = recipe.task == "Embeddings"
        if resolved.format == "safetensors":
            full = self._convert(_pooled(source, work) if embeds else source, resolved, work, step)
        else:
            full = _first_gguf(source)
        if resolved.format == "gguf" and resolved.weight_type not in UNQUANTIZED:
            full = self._quantize(full, work / "full.gguf", "F16", None, work, step)
        self._load(full, work)
        model_is = _Kind.of(full)
        model_is.check(embeds)
        context = model_is.context
        imatrix = None
        if SCHEMES[recipe.scheme].calibrated:
            imatrix = self._calibrate(full, context, embeds, work, begin("Calibrate"))
        artifact = work / "artifact"
        artifact.mkdir()
        model = self._quantize(full, artifact / ENTRYPOINT, recipe.scheme, imatrix, work, begin("Quantize"))
        step = begin("Evaluate")
        if embeds:
            quality = evaluate_embeddings(LLAMACPP, model, full, context, self._threads, work, step)
        else:
            quality = self._evaluate(full, model, context, work, step)
        tools = {name: version(name) for name in ("llama-cpp-python", "transformers", "torch")}
        engine = (LLAMACPP, tools["llama-cpp-python"])
        return Product(
            folder=artifact,
            entrypoint=ENTRYPOINT,
            format="gguf",
            tools=tools,
            baseline_bytes=sum(part.stat().st_size for part in _parts(full)),
            quality=quality,
            performance=measure(*engine, model, full, self._threads, work, begin("Measure"), recipe.task),
        )

    def _convert(self, source: Path, resolved: ResolvedSource, work: Path, step: Step) -> Path:
        """Safetensors to GGUF with 16 bits a weight: BF16 where the source has its range, else F16."""
        full = work / "full.gguf"
        kind = "bf16" if resolved.weight_type.startswith(("BF16", "F8")) else "f16"
        script = self._home / "convert" / "convert_hf_to_gguf.py"

        def hear(line: str) -> None:
            if found := _WRITING.search(line):
                step.share(int(found["percent"]) / 100)

        # Offline, and no code among what was fetched: the converter allows some tokenizers to bring their own.
        environ = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HOME": str(work / "hub")}
        try:
            run_child([sys.executable, script, source, "--outfile", full, "--outtype", kind], work, hear, **environ)
        except ChildFailedError as error:
            raise _refused("convert", error) from None
        return full

    def _load(self, full: Path, work: Path) -> None:
        """Refuses a model that this llama.cpp does not know."""
        try:
            self._binding("load", [full], work)
        except ChildFailedError as error:
            raise _refused("load", error) from None

    def _quantize(self, source: Path, target: Path, scheme: str, imatrix: Path | None, work: Path, step: Step) -> Path:
        arguments: list[str | Path] = [source, target, scheme, str(self._threads), *([imatrix] if imatrix else [])]

        def hear(line: str) -> None:
            if found := _TENSOR.search(line):
                step.share(int(found["done"]) / int(found["total"]))

        try:
            self._binding("quantize", arguments, work, hear)
        except ChildFailedError as error:
            raise _refused("quantize", error) from None
        return target

    def _binding(
        self, what: str, arguments: Sequence[str | Path], work: Path, hear: Callable[[str], None] = lambda _: None
    ) -> None:
        """Runs one of our programs that use llama.cpp's Python binding."""
        module = f"edgemodel.pipeline.llamacpp_{what}"
        run_child([sys.executable, "-m", module, *arguments], work, hear, LLAMA_CPP_LIB_PATH=str(self._home / "lib"))

    def _calibrate(self, full: Path, context: int, embeds: bool, work: Path, step: Step) -> Path:
        """The importance matrix: which activations matter, on the calibration text."""
        (work / "calibration.txt").write_bytes(texts.calibration_text())
        imatrix = work / "imatrix.gguf"
        chunks = str(CALIBRATION_TOKENS // context)
        # llama-imatrix has no use for tokenizers that end a text with a token of their own: it cuts texts itself.
        options = ["--override-kv", _NO_END] if embeds else []
        try:
            self._run(
                "llama-imatrix", full, context, work, step, "-f", "calibration.txt", "-o", imatrix, "--no-ppl",
                "--chunks", chunks, *options,
            )  # fmt: skip
        except ChildFailedError as error:
            raise _refused("calibrate", error) from None
        if not imatrix.exists():
            raise QuantizationFailedError("llama-imatrix wrote no importance matrix: use a scheme without calibration")
        return imatrix

    def _evaluate(self, full: Path, model: Path, context: int, work: Path, step: Step) -> QualityReport:
        """Perplexity of both, and how far the artifact's predictions are from the unquantized model's."""
        text = texts.held_out_text()
        (work / "heldout.txt").write_bytes(text)
        chunks = str(HELD_OUT_TOKENS // context)
        figures: dict[str, float] = {}

        def hear(line: str) -> None:
            for name, pattern in _FIGURES.items():
                if found := pattern.search(line):
                    figures[name] = _float(found[1])

        try:
            scored = self._run(
                "llama-perplexity", full, context, work, _Half(step, 0.0), "-f", "heldout.txt", "--chunks", chunks,
                "--kl-divergence-base", "logits",
            )  # fmt: skip
            for _ in range(_TRIES):
                self._run(
                    "llama-perplexity", model, context, work, _Half(step, 0.5), "--kl-divergence-base", "logits",
                    "--kl-divergence", hear=hear,
                )  # fmt: skip
                if figures.keys() == _FIGURES.keys():
                    break
        except ChildFailedError as error:
            raise EvaluationFailedError(f"llama.cpp could not evaluate the model: {error.last_words}") from None
        if figures.keys() != _FIGURES.keys() or not all(0 <= abs(figure) < 1e12 for figure in figures.values()):
            raise EvaluationFailedError(
                "the artifact's predictions cannot be compared with the unquantized model's: use a scheme of more bits"
            )
        return QualityReport(
            perplexity=decimal(figures["perplexity"]),
            baseline_perplexity=decimal(figures["baseline"]),
            accuracy=decimal(figures["baseline"] / figures["perplexity"]),
            kl_divergence=decimal(figures["divergence"], 6),
            top_token_agreement=decimal(figures["agreement"] / 100),
            tokens=scored * (context - 1 - context // 2),
            text_digest=texts.digest(text),
        )

    def _run(
        self,
        program: str,
        model: Path,
        context: int,
        work: Path,
        step: "Step | _Half",
        *arguments: str | Path,
        hear: Callable[[str], None] = lambda _: None,
    ) -> int:
        """Runs a program of llama.cpp over chunks of text. Returns how many chunks there were."""
        chunks = 0

        def watch(line: str) -> None:
            nonlocal chunks
            if found := _CHUNKS.search(line):
                chunks = int(found["total"])
            if chunks and (all_found := list(_CHUNK.finditer(line))):
                done = all_found[-1]["scored"] or all_found[-1]["compared"]
                step.share(int(done) / chunks)
            hear(line)

        size = str(context)
        run_child(
            [self._home / "bin" / program, "-m", model, "-c", size, "-b", size, "-t", str(self._threads), *arguments],
            work,
            watch,
        )
        return chunks


class _Half:
    """A step of two programs, as one of them sees it."""

    def __init__(self, step: Step, start: float) -> None:
        self._step = step
        self._start = start

    def share(self, done: float) -> None:
        self._step.share(self._start + done / 2)


def _first_gguf(source: Path) -> Path:
    return min(source.rglob("*.gguf"))


def _parts(full: Path) -> list[Path]:
    return list(full.parent.glob("*.gguf")) if full.name != "full.gguf" else [full]


def _pooled(source: Path, work: Path) -> Path:
    """A source that says how its embeddings are pooled: llama.cpp's converter goes by what sentence-transformers keep,
    and leaves it open where there is none."""
    pooling = Pooling.read(source)
    if (source / "modules.json").exists():
        return source
    folder = work / "pooled" / source.name
    folder.mkdir(parents=True)
    for path in source.iterdir():
        (folder / path.name).symlink_to(path)
    pooling.write(folder)
    return folder


class _Kind(NamedTuple):
    """What a model is, by its header."""

    context: int
    """Tokens of context to evaluate with."""
    predicts: bool
    pools: bool

    @classmethod
    def of(cls, full: Path) -> "_Kind":
        """The kind of the model in a GGUF file."""
        with full.open("rb") as stream:

            def read(start: int, size: int) -> bytes:
                stream.seek(start)
                return stream.read(size)

            header = read_gguf(full.name, full.stat().st_size, read)
        facts = header.facts()
        return cls(
            context=min(BATCH_TOKENS, facts.context_length or BATCH_TOKENS),
            predicts=header.metadata.get(f"{facts.architecture}.attention.causal") is not False,
            pools=header.number(f"{facts.architecture}.pooling_type") in _POOLS,
        )

    def check(self, embeds: bool) -> None:
        """Refuses a model that does not do what is asked."""
        if embeds and not self.pools:
            raise SourceUnsupportedError(
                "the GGUF file does not say how its embeddings are pooled: name the model's safetensors repository"
            )
        if not embeds and not self.predicts:
            raise UnsupportedArchitectureError("the model generates no text: set spec.task to Embeddings")


def _refused(what: str, error: ChildFailedError) -> UnsupportedArchitectureError | QuantizationFailedError:
    found = _UNSUPPORTED.search(error.tail)
    if found and found["tokenizer"]:
        return UnsupportedArchitectureError("this llama.cpp does not know the model's tokenizer: use another model")
    if found:
        name = found["converter"] or found["loader"]
        return UnsupportedArchitectureError(f"this llama.cpp does not know the architecture {name}: use another model")
    return QuantizationFailedError(f"llama.cpp could not {what} the model: {error.last_words}")


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
