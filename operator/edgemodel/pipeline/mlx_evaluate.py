"""Compares a model with the unquantized one: `python -m edgemodel.pipeline.mlx_evaluate FULL QUANTIZED REPORT`.

What is judged is what quantizing made of the weights: they are unpacked, and activations have 32 bits. The kernels for
packed weights are made for GPUs: on a CPU they take a hundred times as long.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_unflatten
from mlx_lm.utils import dequantize_model, load_config, load_model
from numpy.typing import NDArray

from edgemodel.api.artifact import QualityReport
from edgemodel.pipeline import texts
from edgemodel.pipeline.pretrained import Pretrained
from edgemodel.pipeline.quality import Predict, compare, remember

LOGITS = "logits"
"""Where the unquantized model's predictions are kept meanwhile."""


def evaluate(full: Path, quantized: Path, windows: Sequence[Sequence[int]], work: Path) -> QualityReport:
    """The model in the folder `quantized` beside the one in the folder `full`. One of them is in memory at a time."""
    logits = work / LOGITS
    baseline = remember(predictor(full), windows, logits, lambda done: _say(done / 2))
    return compare(
        predictor(quantized),
        windows,
        logits,
        baseline,
        texts.digest(texts.held_out_text()),
        lambda done: _say(0.5 + done / 2),
    )


def predictor(folder: Path) -> Predict:
    """The model in a folder, as `quality` asks it."""
    model, _ = load_model(folder, lazy=True)
    model = dequantize_model(model)
    embeddings = [(name, _In32Bits(module)) for name, module in model.named_modules() if type(module) is nn.Embedding]
    model.update_modules(tree_unflatten(embeddings))

    def predict(window: Sequence[int]) -> NDArray[np.float32]:
        logits = np.array(model(mx.array([list(window)]))[0].astype(mx.float32))
        mx.clear_cache()
        return logits

    return predict


class _In32Bits(nn.Embedding):  # type: ignore[misc]  # MLX is not installed where types are checked
    """An embedding of 32 bits: what it begins goes on in as many, with weights that are widened only while they are
    multiplied with."""

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__(1, 1)
        self.weight = embedding.weight

    def __call__(self, tokens: mx.array) -> mx.array:
        return super().__call__(tokens).astype(mx.float32)


def _say(done: float) -> None:
    print(f"evaluated {int(100 * done)} %", flush=True)


def main() -> None:
    """Compares as the command line says."""
    full, quantized, report = map(Path, sys.argv[1:])
    windows = Pretrained(full, load_config(full)).held_out_windows()
    found = evaluate(full, quantized, windows, report.parent)
    report.write_text(json.dumps(found.dump()))


if __name__ == "__main__":
    main()
