"""ONNX Runtime: safetensors in, a folder in the layout of onnxruntime-genai out.

Olive drives: its passes build and quantize the model, in a process of their own. onnxruntime-genai, which is to serve
it, judges it in another.
"""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from edgemodel.api.artifact import QualityReport, Recipe, ResolvedSource
from edgemodel.pipeline import errors
from edgemodel.pipeline.children import ChildFailedError, run_child
from edgemodel.pipeline.cpus import threads
from edgemodel.pipeline.errors import (
    EvaluationFailedError,
    PipelineError,
    QuantizationFailedError,
)
from edgemodel.pipeline.measure import measure
from edgemodel.pipeline.onnx_schemes import SCHEMES, UNQUANTIZED, OlivePass
from edgemodel.pipeline.pretrained import OFFLINE, Pretrained
from edgemodel.pipeline.progress import Step
from edgemodel.pipeline.toolchain import Product, check_recipe

ENTRYPOINT = "genai_config.json"
"""What makes the folder one of onnxruntime-genai; it names the model's file."""

ENGINE = "onnxruntime-genai"

_TOOLS = ("olive-ai", "onnxruntime", ENGINE, "transformers", "torch")

_LAYER = re.compile(r"Reading layer (?P<done>\d+)")
_LAYERS = re.compile(r"Processing layers\.\.\.:\s+(?P<percent>\d+)%")
_EVALUATED = re.compile(r"evaluated (?P<share>[\d.]+)")
_OURS = re.compile(r"^edgemodel\.pipeline\.errors\.(?P<kind>\w+): (?P<message>.+)$", re.MULTILINE)


class Onnx:
    """Makes ONNX artifacts."""

    def __init__(self) -> None:
        self._threads = threads()

    def check(self, recipe: Recipe) -> None:
        """Refuses a scheme that is not offered, or a calibration text that this image has not."""
        check_recipe("ONNX Runtime", SCHEMES, recipe)

    def make(
        self, source: Path, resolved: ResolvedSource, recipe: Recipe, work: Path, begin: Callable[[str], Step]
    ) -> Product:
        """Converts, quantizes, evaluates and measures. What is calibrated is so while it is quantized."""
        model = Pretrained.read(source, resolved).folder
        full, artifact = work / "full", work / "artifact"
        layers = resolved.model.layers
        self._olive(model, full, full, [UNQUANTIZED], layers, work, begin("Convert"))
        passes = SCHEMES[recipe.scheme].passes
        if passes:
            self._olive(model, full, artifact, passes, layers, work, begin("Quantize"))
        else:
            shutil.copytree(full, artifact, copy_function=os.link)
        quality = self._evaluate(model, full, artifact, work, begin("Evaluate"))
        tools = {name: version(name) for name in _TOOLS}
        return Product(
            folder=artifact,
            entrypoint=ENTRYPOINT,
            format="onnx",
            tools=tools,
            baseline_bytes=sum(path.stat().st_size for path in full.iterdir()),
            quality=quality,
            performance=measure(ENGINE, tools[ENGINE], artifact, full, self._threads, work, begin("Measure")),
        )

    def _olive(
        self,
        source: Path,
        full: Path,
        target: Path,
        passes: Sequence[OlivePass],
        layers: int,
        work: Path,
        step: Step,
    ) -> None:
        def hear(line: str) -> None:
            if found := _LAYER.search(line):
                step.share(int(found["done"]) / max(layers, 1))
            elif found := _LAYERS.search(line):
                step.share(int(found["percent"]) / 100)

        try:
            self._run("onnx_olive", [source, full, target, json.dumps(passes)], work, hear)
        except ChildFailedError as error:
            raise _ours(error) or QuantizationFailedError(
                f"Olive could not convert or quantize the model: {error.last_words}"
            ) from None

    def _evaluate(self, source: Path, full: Path, artifact: Path, work: Path, step: Step) -> QualityReport:
        report = work / "report.json"

        def hear(line: str) -> None:
            if found := _EVALUATED.search(line):
                step.share(float(found["share"]))

        try:
            self._run("onnx_evaluate", [source, full, artifact, str(self._threads), report], work, hear)
        except ChildFailedError as error:
            raise _ours(error) or EvaluationFailedError(
                f"onnxruntime-genai could not evaluate the model: {error.last_words}"
            ) from None
        return QualityReport.model_validate_json(report.read_text())

    def _run(self, module: str, arguments: Sequence[str | Path], work: Path, hear: Callable[[str], None]) -> None:
        """Runs one of our programs that use these libraries."""
        scratch = work / "scratch"
        scratch.mkdir(exist_ok=True)
        # One thread in torch: sums come in the same order everywhere, so that GPTQ makes the same bytes; and threads
        # that wait for each other by spinning take twenty times as long for it where others use the cores too.
        run_child(
            [sys.executable, "-m", f"edgemodel.pipeline.{module}", *arguments],
            work,
            hear,
            **OFFLINE,
            HF_HOME=str(work / "hub"),
            OMP_NUM_THREADS="1",
            PYTHONUNBUFFERED="1",
            TMPDIR=str(scratch),
        )


def _ours(error: ChildFailedError) -> PipelineError | None:
    """What one of our programs raised itself."""
    found = _OURS.search(error.tail)
    if not found:
        return None
    raised: type[PipelineError] = getattr(errors, found["kind"])
    return raised(found["message"])
