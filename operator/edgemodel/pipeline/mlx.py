"""MLX: safetensors in, a folder of quantized safetensors out, as mlx-lm loads it.

Its own functions convert and quantize, each in a process of its own. No weight is in memory before it is written, nor
after; all of them are only while predictions are compared.
"""

import re
import sys
from collections.abc import Callable
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
    UnsupportedArchitectureError,
)
from edgemodel.pipeline.measure import measure
from edgemodel.pipeline.mlx_schemes import SCHEMES
from edgemodel.pipeline.pretrained import OFFLINE, Pretrained
from edgemodel.pipeline.progress import Step
from edgemodel.pipeline.toolchain import Product, check_recipe

ENTRYPOINT = "config.json"

_EVALUATED = re.compile(r"evaluated (?P<percent>\d+) %")
_RAISED = re.compile(r"^edgemodel\.pipeline\.errors\.(?P<name>\w+): (?P<message>.+)$", re.MULTILINE)
"""The last words of a child that met an error of ours."""
_UNKNOWN = re.compile(
    r"Model type (?P<type>\S+) not supported|module 'mlx_lm\.models\.(?P<helper>\S+)' has no attribute"
)


class Mlx:
    """Makes MLX artifacts."""

    def check(self, recipe: Recipe) -> None:
        """Refuses a scheme that MLX has not."""
        check_recipe("MLX", SCHEMES, recipe)

    def make(
        self, source: Path, resolved: ResolvedSource, recipe: Recipe, work: Path, begin: Callable[[str], Step]
    ) -> Product:
        """Converts, quantizes and evaluates."""
        step = begin("Convert")
        model = Pretrained.read(source, resolved).folder
        # Activations have the weights' type, and some overflow in half the range: F16 only for what is made for it.
        full = _convert(model, work / "full", "F16" if resolved.weight_type.startswith("F16") else "BF16", work)
        step.share(1.0)
        step = begin("Quantize")
        artifact = _convert(full, work / "artifact", recipe.scheme, work)
        step.share(1.0)
        quality = _evaluate(full, artifact, work, begin("Evaluate"))
        tools = {name: version(name) for name in ("mlx", "mlx-lm", "transformers")}
        performance = measure("mlx", tools["mlx"], artifact, full, threads(), work, begin("Measure"))
        return Product(
            folder=artifact,
            entrypoint=ENTRYPOINT,
            format="mlx",
            tools=tools,
            baseline_bytes=sum(file.stat().st_size for file in full.iterdir()),
            quality=quality,
            performance=performance,
        )


def _convert(source: Path, target: Path, scheme: str, work: Path) -> Path:
    try:
        _run("convert", [source, target, scheme], work)
    except ChildFailedError as error:
        raise _refused(scheme, error) from None
    return target


def _evaluate(full: Path, artifact: Path, work: Path, step: Step) -> QualityReport:
    """Perplexity of both, and how far the artifact's predictions are from the unquantized model's."""
    report = work / "quality.json"

    def hear(line: str) -> None:
        if found := _EVALUATED.search(line):
            step.share(int(found["percent"]) / 100)

    try:
        _run("evaluate", [full, artifact, report], work, hear)
    except ChildFailedError as error:
        raise _raised(error) or EvaluationFailedError(f"MLX could not evaluate the model: {error.last_words}") from None
    return QualityReport.model_validate_json(report.read_bytes())


def _run(what: str, arguments: list[str | Path], work: Path, hear: Callable[[str], None] = lambda _: None) -> None:
    """Runs one of our programs that use MLX. It must not compile kernels, which it does where it finds a compiler."""
    environ = OFFLINE | {"MLX_DISABLE_COMPILE": "1", "OPENBLAS_NUM_THREADS": str(threads())}
    run_child([sys.executable, "-m", f"edgemodel.pipeline.mlx_{what}", *arguments], work, hear, **environ)


def _refused(scheme: str, error: ChildFailedError) -> PipelineError:
    if unknown := _UNKNOWN.search(error.tail):
        name = (unknown["type"] or unknown["helper"])[:64]
        return UnsupportedArchitectureError(f"this mlx-lm does not know the model type {name}: use another model")
    return _raised(error) or QuantizationFailedError(f"MLX could not make {scheme} of the model: {error.last_words}")


def _raised(error: ChildFailedError) -> PipelineError | None:
    """The error of ours that ended the child, if it was one."""
    found = list(_RAISED.finditer(error.tail))
    kind = getattr(errors, found[-1]["name"], None) if found else None
    return kind(found[-1]["message"]) if kind else None
