"""What every toolchain is to the Job, and which there are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgemodel.api.artifact import PerformanceReport, QualityReport, Recipe, ResolvedSource
from edgemodel.pipeline import texts
from edgemodel.pipeline.errors import CalibrationMismatchError, InternalError, UnknownSchemeError
from edgemodel.pipeline.progress import Step
from edgemodel.serve.plugins import plugin


@dataclass(frozen=True)
class Product:
    """An artifact that was made and judged."""

    folder: Path
    """Its files, and nothing else."""
    entrypoint: str
    """The file among them that a runtime opens."""
    format: str
    """Its format, as an EdgeRuntime calls it."""
    tools: dict[str, str]
    """The programs that made it, and their versions."""
    baseline_bytes: int
    """Size of the unquantized model in the same format."""
    quality: QualityReport | None
    """What it is worth beside the unquantized model. None for a model that predicts no tokens."""
    performance: PerformanceReport | None = None
    """How fast and how large it is beside the unquantized model."""


class Toolchain(Protocol):
    """Makes artifacts of one format. Its errors are `PipelineError`s."""

    def check(self, recipe: Recipe) -> None:
        """Refuses a recipe that it cannot make, before anything is fetched."""

    def make(
        self, source: Path, resolved: ResolvedSource, recipe: Recipe, work: Path, begin: Callable[[str], Step]
    ) -> Product:
        """Makes the artifact of the model in the folder `source`, in and below the folder `work`.

        `begin` is called with the name of each step that it takes (Convert, Calibrate, Quantize, Compile, Evaluate,
        Measure).
        """


class _Calibrated(Protocol):
    @property
    def calibrated(self) -> bool:
        """Whether calibration text goes into the scheme."""


def check_recipe(engine: str, schemes: Mapping[str, _Calibrated], recipe: Recipe) -> None:
    """Refuses a scheme that is not offered, or a calibration text that this image has not."""
    scheme = schemes.get(recipe.scheme)
    if scheme is None:
        raise UnknownSchemeError(f"{engine} has no scheme {recipe.scheme!r}: use one of {', '.join(schemes)}")
    here = texts.calibration_digest()
    if scheme.calibrated and recipe.calibration != here:
        raise CalibrationMismatchError(
            f"this image calibrates {recipe.scheme} on {here}, not on {recipe.calibration}: "
            "correct pipeline.calibration and the scheme's calibrated in the EdgeRuntime"
        )


_TOOLCHAINS = {
    "llamacpp": "edgemodel.pipeline.llamacpp:LlamaCpp",
    "mlx": "edgemodel.pipeline.mlx:Mlx",
    "onnx": "edgemodel.pipeline.onnx:Onnx",
    "openvino": "edgemodel.pipeline.openvino:OpenVino",
    "qnn": "edgemodel.pipeline.qnn:Qnn",
}
"""Name -> where it is."""


def toolchain(name: str) -> Toolchain:
    """The toolchain of that name."""
    try:
        made: Toolchain = plugin("edgemodel.toolchains", name, _TOOLCHAINS)()
    except KeyError:
        raise InternalError(
            f"there is no toolchain {name!r} in this image: correct pipeline.toolchain of the EdgeRuntime"
        ) from None
    return made
