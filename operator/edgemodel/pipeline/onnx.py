"""ONNX Runtime: safetensors in; out a folder in the layout of onnxruntime-genai, or of a model that embeds.

Olive drives: its passes build and quantize the model, in a process of their own; torch exports what embeds. The engine
that is to serve it judges it in another.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from edgemodel.api.artifact import QualityReport, Recipe, ResolvedSource
from edgemodel.api.base import Task
from edgemodel.pipeline.children import ChildFailedError
from edgemodel.pipeline.cpus import threads
from edgemodel.pipeline.embed import evaluate_embeddings
from edgemodel.pipeline.errors import EvaluationFailedError, QuantizationFailedError
from edgemodel.pipeline.measure import measure
from edgemodel.pipeline.onnx_schemes import SCHEMES, UNQUANTIZED, OlivePass
from edgemodel.pipeline.pretrained import OFFLINE, Pretrained
from edgemodel.pipeline.progress import Step
from edgemodel.pipeline.steps import run_step, shares
from edgemodel.pipeline.toolchain import Product, check_recipe

ENTRYPOINT = "genai_config.json"
"""What makes the folder one of onnxruntime-genai; it names the model's file."""

EMBEDDER_ENTRYPOINT = "model.onnx"

ENGINE, EMBEDDER = "onnxruntime-genai", "onnxruntime"

_TOOLS = ("olive-ai", "onnxruntime", ENGINE, "transformers", "torch")

_LAYER = re.compile(r"Reading layer (?P<done>\d+)")
_LAYERS = re.compile(r"Processing layers\.\.\.:\s+(?P<percent>\d+)%")


class Onnx:
    """Makes ONNX artifacts."""

    def __init__(self) -> None:
        self._threads = threads()

    def check(self, recipe: Recipe) -> None:
        """Refuses a scheme that is not offered, or a calibration text that this image has not."""
        offered = {name: each for name, each in SCHEMES.items() if each.passes_for(recipe.task) is not None}
        check_recipe("ONNX Runtime", offered, recipe)

    def make(
        self, source: Path, resolved: ResolvedSource, recipe: Recipe, work: Path, begin: Callable[[str], Step]
    ) -> Product:
        """Converts, quantizes, evaluates and measures. What is calibrated is so while it is quantized."""
        pretrained = Pretrained.read(source, resolved)
        model = pretrained.folder
        full, artifact = work / "full", work / "artifact"
        embeds, layers = recipe.task == "Embeddings", resolved.model.layers
        step = begin("Convert")
        if embeds:
            self._make("onnx_export:export", model, full, work=work, hear=lambda _: None)
        else:
            self._olive(model, full, full, [UNQUANTIZED], recipe.task, layers, work, step)
        if passes := SCHEMES[recipe.scheme].passes_for(recipe.task):
            self._olive(model, full, artifact, passes, recipe.task, layers, work, begin("Quantize"))
        else:
            shutil.copytree(full, artifact, copy_function=os.link)
        step, engine = begin("Evaluate"), EMBEDDER if embeds else ENGINE
        if embeds:
            context = pretrained.context_length
            quality = evaluate_embeddings(engine, artifact, full, context, self._threads, work, step)
        else:
            quality = self._evaluate(model, full, artifact, work, step)
        tools = {name: version(name) for name in _TOOLS}
        return Product(
            folder=artifact,
            entrypoint=EMBEDDER_ENTRYPOINT if embeds else ENTRYPOINT,
            format="onnx",
            tools=tools,
            baseline_bytes=sum(path.stat().st_size for path in full.iterdir()),
            quality=quality,
            performance=measure(
                engine, tools[engine], artifact, full, self._threads, work, begin("Measure"), recipe.task
            ),
        )

    def _olive(
        self,
        source: Path,
        full: Path,
        target: Path,
        passes: Sequence[OlivePass],
        task: Task,
        layers: int,
        work: Path,
        step: Step,
    ) -> None:
        def hear(line: str) -> None:
            if found := _LAYER.search(line):
                step.share(int(found["done"]) / max(layers, 1))
            elif found := _LAYERS.search(line):
                step.share(int(found["percent"]) / 100)

        self._make("onnx_olive:olive", source, full, target, json.dumps(passes), task, work=work, hear=hear)

    def _make(self, step: str, *arguments: str | Path, work: Path, hear: Callable[[str], None]) -> None:
        try:
            self._run(step, *arguments, work=work, hear=hear)
        except ChildFailedError as error:
            raise QuantizationFailedError(
                f"the model could not be converted or quantized: {error.last_words}"
            ) from None

    def _evaluate(self, source: Path, full: Path, artifact: Path, work: Path, step: Step) -> QualityReport:
        arguments = (source, full, artifact, str(self._threads), work / "logits")
        try:
            report = self._run("onnx_evaluate:evaluate", *arguments, work=work, hear=shares(step))
        except ChildFailedError as error:
            raise EvaluationFailedError(f"onnxruntime-genai could not evaluate the model: {error.last_words}") from None
        return QualityReport.model_validate_json(report)

    def _run(self, step: str, *arguments: str | Path, work: Path, hear: Callable[[str], None]) -> str:
        """Takes a step that uses these libraries."""
        scratch = work / "scratch"
        scratch.mkdir(exist_ok=True)
        # One thread in torch: sums come in the same order everywhere, so that GPTQ makes the same bytes; and threads
        # that wait for each other by spinning take twenty times as long for it where others use the cores too.
        environ = {
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            "HF_HOME": str(work / "hub"),
            "TMPDIR": str(scratch),
        }
        return run_step(f"edgemodel.pipeline.{step}", *arguments, work=work, hear=hear, environ=OFFLINE | environ)
