"""OpenVINO: safetensors in, an OpenVINO IR with compressed weights out.

The artifact is a folder as OpenVINO Model Server serves it (`--model_path`), and OpenVINO GenAI: the model, its
tokenizer and detokenizer, their configurations, and the graph that makes a language model of them.
"""

import re
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from edgemodel.api.artifact import QualityReport, Recipe, ResolvedSource
from edgemodel.pipeline.children import ChildFailedError
from edgemodel.pipeline.cpus import threads
from edgemodel.pipeline.embed import evaluate_embeddings
from edgemodel.pipeline.errors import EvaluationFailedError, QuantizationFailedError
from edgemodel.pipeline.measure import measure
from edgemodel.pipeline.openvino_schemes import SCHEMES
from edgemodel.pipeline.openvino_steps import MODEL
from edgemodel.pipeline.pretrained import OFFLINE, Pretrained
from edgemodel.pipeline.progress import Step
from edgemodel.pipeline.steps import run_step, shares
from edgemodel.pipeline.toolchain import Product, check_recipe

ENTRYPOINT = MODEL

_STEPS = "edgemodel.pipeline.openvino_steps"
_ENVIRON = OFFLINE | {
    "CI": "true",  # openvino_telemetry, which else reports to its makers, has no other switch
    "FORCE_COLOR": "1",  # NNCF draws its progress for terminals alone
    "COLUMNS": "120",
}
_BAR = re.compile(r"(?P<stage>Statistics collection|Applying [\w -]+?)\s.*\s(?P<percent>\d+)%")
_MEASURING = "Statistics collection"


class OpenVino:
    """Makes OpenVINO artifacts."""

    def check(self, recipe: Recipe) -> None:
        """Refuses a scheme that we have not, or a calibration text that this image has not."""
        check_recipe("OpenVINO", SCHEMES, recipe)

    def make(
        self, source: Path, resolved: ResolvedSource, recipe: Recipe, work: Path, begin: Callable[[str], Step]
    ) -> Product:
        """Converts, calibrates, quantizes, evaluates and measures."""
        pretrained = Pretrained.read(source, resolved)
        full, windows = work / "full", work / "windows.json"
        step = begin("Convert")
        _run("convert", pretrained.folder, full, windows, recipe.task, work=work, hear=shares(step))
        artifact = full if SCHEMES[recipe.scheme].mode is None else self._quantize(full, recipe.scheme, work, begin)
        step = begin("Evaluate")
        if recipe.task == "Embeddings":
            engine = ("openvino", version("openvino"))
            context = pretrained.context_length
            quality = evaluate_embeddings(engine[0], artifact, full, context, threads(), work, step)
        else:
            engine = ("openvino-genai", version("openvino-genai"))
            quality = self._evaluate(full, artifact, work, step)
        return Product(
            folder=artifact,
            entrypoint=ENTRYPOINT,
            format="openvino",
            tools={
                name: version(name)
                for name in ("openvino", "openvino-tokenizers", "nncf", "optimum-intel", "transformers", "torch")
            },
            baseline_bytes=sum(file.stat().st_size for file in full.rglob("*") if file.is_file()),
            quality=quality,
            performance=measure(*engine, artifact, full, threads(), work, begin("Measure"), recipe.task),
        )

    def _quantize(self, full: Path, name: str, work: Path, begin: Callable[[str], Step]) -> Path:
        artifact = work / "artifact"
        shutil.copytree(full, artifact, ignore=shutil.ignore_patterns("openvino_model.*"))
        scheme = SCHEMES[name]
        step = begin("Calibrate" if scheme.calibrated else "Quantize")
        stages = scheme.awq + scheme.scale_estimation + 1
        seen: list[str] = []

        def hear(line: str) -> None:
            nonlocal step
            found = _BAR.search(line)
            if not found:
                return
            share = int(found["percent"]) / 100
            if found["stage"] != _MEASURING:
                if scheme.calibrated and not seen:
                    step = begin("Quantize")
                if found["stage"] not in seen:
                    seen.append(found["stage"])
                share = (len(seen) - 1 + share) / stages
            step.share(share)

        _run("quantize", full, artifact, name, work / "windows.json", work=work, hear=hear)
        return artifact

    def _evaluate(self, full: Path, artifact: Path, work: Path, step: Step) -> QualityReport:
        """Perplexity of both, and how far the artifact's predictions are from the unquantized model's."""
        windows, logits = work / "windows.json", work / "logits"
        baseline = _run("remember", full, windows, logits, work=work, hear=shares(step, 0.0, 0.5))
        report = _run("compare", artifact, windows, logits, baseline, work=work, hear=shares(step, 0.5, 0.5))
        return QualityReport.model_validate_json(report)


def _run(name: str, *arguments: str | Path, work: Path, hear: Callable[[str], None]) -> str:
    """Takes a step of `openvino_steps`. Returns its result."""
    environ = _ENVIRON | {"HF_HOME": str(work / "hub"), "OMP_NUM_THREADS": str(threads())}
    try:
        return run_step(f"{_STEPS}:{name}", *arguments, work=work, hear=hear, environ=environ)
    except ChildFailedError as error:
        if name in ("remember", "compare"):
            raise EvaluationFailedError(f"OpenVINO could not evaluate the model: {error.last_words}") from None
        raise QuantizationFailedError(f"OpenVINO could not {name} the model: {error.last_words}") from None
