"""What models that embed texts are worth: their embeddings beside the unquantized model's, of the same texts."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgemodel.api.artifact import QualityReport
from edgemodel.api.base import decimal
from edgemodel.pipeline import texts
from edgemodel.pipeline.errors import EvaluationFailedError, SourceUnsupportedError

PASSAGES = 32
"""Texts that are judged by, and at most as many that are calibrated on."""
_LEAST_CHARACTERS = 80

_PoolingMode = Literal["mean", "cls", "last"]
_MODES: dict[str, _PoolingMode] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}


@dataclass(frozen=True)
class Pooling:
    """How a text's embedding is made of its tokens' states."""

    mode: _PoolingMode = "mean"
    normalize: bool = True

    @classmethod
    def read(cls, folder: Path) -> "Pooling":
        """As a folder of sentence-transformers says: modules.json names the modules that follow the model's own. The
        mean, normalized, where a folder says nothing. `SourceUnsupportedError` if we know no such module."""
        path = folder / "modules.json"
        if not path.exists():
            return cls()
        mode: _PoolingMode = "mean"
        normalize = False
        for module in json.loads(path.read_text()):
            kind = module["type"].rpartition(".")[2]
            if kind == "Pooling":
                mode = cls._mode(json.loads((folder / module["path"] / "config.json").read_text()))
            elif kind == "Normalize":
                normalize = True
            elif kind != "Transformer":
                raise SourceUnsupportedError(f"the model's embeddings go through a module {kind!r}: use another model")
        return cls(mode, normalize)

    def write(self, folder: Path) -> None:
        """Says so, in a folder of the same kind."""
        kinds = ["Transformer", "Pooling", *(["Normalize"] if self.normalize else [])]
        modules = [
            {
                "idx": number,
                "name": str(number),
                "path": f"{number}_{kind}" if number else "",
                "type": f"sentence_transformers.models.{kind}",
            }
            for number, kind in enumerate(kinds)
        ]
        (folder / "modules.json").write_text(json.dumps(modules))
        (folder / "1_Pooling").mkdir(exist_ok=True)
        config = {name: mode == self.mode for name, mode in _MODES.items()}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))

    @staticmethod
    def _mode(config: dict[str, object]) -> _PoolingMode:
        asked = [name for name, value in config.items() if name.startswith("pooling_mode_") and value is True]
        if len(asked) != 1 or asked[0] not in _MODES:
            raise SourceUnsupportedError(
                f"the model pools by {', '.join(asked) or 'nothing'}: one of {', '.join(_MODES)} can be served"
            )
        return _MODES[asked[0]]


def held_out_passages() -> list[str]:
    """The texts that an artifact is judged by."""
    return _passages(texts.held_out_text())


def calibration_passages() -> list[str]:
    """Texts that activations are measured on."""
    return _passages(texts.calibration_text())


def _passages(text: bytes) -> list[str]:
    paragraphs = (" ".join(part.split()) for part in text.decode().split("\n\n"))
    return [paragraph for paragraph in paragraphs if len(paragraph) >= _LEAST_CHARACTERS][:PASSAGES]


def compare_embeddings(
    baseline: Sequence[Sequence[float]], artifact: Sequence[Sequence[float]], tokens: int
) -> QualityReport:
    """An artifact's embeddings of the held-out passages, (passages, width), beside the unquantized model's, both in one
    order. `tokens` is how many the passages have."""
    cosines = _cosines(np.asarray(baseline, np.float64), np.asarray(artifact, np.float64))
    if not np.isfinite(cosines).all():
        raise EvaluationFailedError(
            "the model's embeddings make no sense on the held-out text: use a scheme of more bits, or another model"
        )
    return QualityReport(
        accuracy=decimal(float(cosines.mean())),
        cosine=decimal(float(cosines.mean())),
        least_cosine=decimal(float(cosines.min())),
        tokens=tokens,
        text_digest=texts.digest(texts.held_out_text()),
    )


def _cosines(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        result: NDArray[np.float64] = (one * other).sum(axis=1) / lengths
    return result
