"""QNN: safetensors in, what the HTP of one Snapdragon runs out. For models that embed text.

ONNX Runtime quantizes the model (QDQ), with ranges of activations from the calibration text, and has QNN compile it for
the recipe's target, ahead of time and on any x86-64 machine: a board never compiles. The artifact holds both. It is
judged on QNN's simulator of the HTP, which says what the HTP answers, not how fast: no performance is reported.
"""

import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from edgemodel.api.artifact import QualityReport, Recipe, ResolvedSource
from edgemodel.core.snapdragons import UnknownTargetError, soc_of
from edgemodel.pipeline.children import ChildFailedError
from edgemodel.pipeline.cpus import threads
from edgemodel.pipeline.embeddings import Pooling
from edgemodel.pipeline.errors import (
    EvaluationFailedError,
    PipelineError,
    QuantizationFailedError,
    TargetUnsupportedError,
    TaskUnsupportedError,
)
from edgemodel.pipeline.pretrained import OFFLINE, Pretrained
from edgemodel.pipeline.progress import Step
from edgemodel.pipeline.qnn_schemes import SCHEMES
from edgemodel.pipeline.steps import run_step, shares
from edgemodel.pipeline.toolchain import Product, check_recipe
from edgemodel.serve.qnn_artifact import DESCRIPTION, Description

_STEPS = "edgemodel.pipeline.qnn_steps"
_TOOLS = ("onnxruntime", "onnxruntime-qnn", "onnx", "transformers", "torch")
_NOT_ON_HTP = re.compile(r"Unsupported nodes in QNN EP: (?P<nodes>.*)")
_OPERATOR = re.compile(r"type: (?P<operator>\w+)")


class Qnn:
    """Makes QNN artifacts."""

    def check(self, recipe: Recipe) -> None:
        """Refuses what it cannot make: another task, a scheme that we have not, a chip that we do not know."""
        if recipe.task != "Embeddings":
            raise TaskUnsupportedError(
                "QNN serves models that embed text: set spec.task to Embeddings, or use another runtime"
            )
        check_recipe("QNN", SCHEMES, recipe)
        if not recipe.target:
            raise TargetUnsupportedError(
                "the recipe names no Snapdragon: give the class in the EdgeRuntime a target, for example sm8650-v75"
            )
        try:
            soc_of(recipe.target)
        except UnknownTargetError as error:
            raise TargetUnsupportedError(f"{error}: correct the class's target in the EdgeRuntime") from None

    def make(
        self, source: Path, resolved: ResolvedSource, recipe: Recipe, work: Path, begin: Callable[[str], Step]
    ) -> Product:
        """Converts, quantizes, compiles and evaluates. Calibration is part of quantizing."""
        model = Pretrained.read(source, resolved).folder
        Pooling.read(model)
        full, artifact = work / "full.onnx", work / "artifact"
        artifact.mkdir()
        _run("convert", model, full, work=work, step=begin("Convert"))
        _run("quantize", model, full, artifact, recipe.scheme, work=work, step=begin("Quantize"))
        _run("compile", model, artifact, recipe.target, work=work, step=begin("Compile"))
        report = _run("evaluate", full, artifact, str(threads()), work=work, step=begin("Evaluate"))
        return Product(
            folder=artifact,
            entrypoint=DESCRIPTION,
            format="qnn",
            tools={name: version(name) for name in _TOOLS} | {"qnn": Description.read(artifact).qnn_sdk},
            baseline_bytes=full.stat().st_size,
            quality=QualityReport.model_validate_json(report),
        )


def _run(name: str, *arguments: str | Path, work: Path, step: Step) -> str:
    """Takes a step of `qnn_steps`. Returns its result."""
    scratch = work / "scratch"
    scratch.mkdir(exist_ok=True)
    # One thread in torch, and strings hashed alike: the same bytes everywhere.
    environ = {"HF_HOME": str(work / "hub"), "TMPDIR": str(scratch), "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    try:
        return run_step(f"{_STEPS}:{name}", *arguments, work=work, hear=shares(step), environ=OFFLINE | environ)
    except ChildFailedError as error:
        raise failure(name, error) from None


def failure(name: str, error: ChildFailedError) -> PipelineError:
    """What it means that a step ended without saying why: by what the HTP lacks, else by its last words."""
    if found := _NOT_ON_HTP.search(error.tail):
        operators = sorted(set(_OPERATOR.findall(found["nodes"])))
        return QuantizationFailedError(
            f"the HTP does not have {', '.join(operators)[:400]}, which the model needs: use another scheme, or model"
        )
    if name == "evaluate":
        return EvaluationFailedError(f"QNN's simulator could not evaluate the model: {error.last_words}")
    return QuantizationFailedError(f"QNN's toolchain could not {name} the model: {error.last_words}")
