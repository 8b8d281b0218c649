"""MLX: safetensors in, a folder of quantized safetensors out, as mlx-lm loads it.

Its own functions convert and quantize, each in a process of its own. No weight is in memory before it is written, nor
after; all of them are only while predictions are compared.
"""

import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from edgemodel.api.artifact import QualityReport, Recipe, ResolvedSource
from edgemodel.pipeline.children import ChildFailedError
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
from edgemodel.pipeline.steps import run_step, shares
from edgemodel.pipeline.toolchain import Product, check_recipe

ENTRYPOINT = "config.json"

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
        _run("mlx_convert:convert", source, target, scheme, work=work)
    except ChildFailedError as error:
        raise _refused(scheme, error) from None
    return target


def _evaluate(full: Path, artifact: Path, work: Path, step: Step) -> QualityReport:
    """Perplexity of both, and how far the artifact's predictions are from the unquantized model's."""
    try:
        report = _run("mlx_evaluate:evaluate", full, artifact, work / "logits", work=work, hear=shares(step))
    except ChildFailedError as error:
        raise EvaluationFailedError(f"MLX could not evaluate the model: {error.last_words}") from None
    return QualityReport.model_validate_json(report)


def _run(step: str, *arguments: str | Path, work: Path, hear: Callable[[str], None] = lambda _: None) -> str:
    """Takes a step that uses MLX. It must not compile kernels, which it does where it finds a compiler."""
    environ = OFFLINE | {"MLX_DISABLE_COMPILE": "1", "OPENBLAS_NUM_THREADS": str(threads())}
    return run_step(f"edgemodel.pipeline.{step}", *arguments, work=work, hear=hear, environ=environ)


def _refused(scheme: str, error: ChildFailedError) -> PipelineError:
    if unknown := _UNKNOWN.search(error.tail):
        name = (unknown["type"] or unknown["helper"])[:64]
        return UnsupportedArchitectureError(f"this mlx-lm does not know the model type {name}: use another model")
    return QuantizationFailedError(f"MLX could not make {scheme} of the model: {error.last_words}")
