"""Compares a model with the unquantized one, in the step `evaluate`.

What is judged is what quantizing made of the weights: they are unpacked, and activations have 32 bits. The kernels for
packed weights are made for GPUs: on a CPU they take a hundred times as long.
"""

from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_unflatten
from mlx_lm.utils import dequantize_model, load_config, load_model
from numpy.typing import NDArray

from edgemodel.pipeline import texts
from edgemodel.pipeline.pretrained import Pretrained
from edgemodel.pipeline.quality import Predict, compare, remember
from edgemodel.pipeline.steps import tell


def evaluate(full: str, quantized: str, logits: str) -> str:
    """The model in the folder `quantized` beside the one in the folder `full`, whose predictions are kept in the file
    `logits` meanwhile: one of them is in memory at a time. The result is the quality report."""
    unquantized, memory = Path(full), Path(logits)
    windows = Pretrained(unquantized, load_config(unquantized)).held_out_windows()
    baseline = remember(predictor(unquantized), windows, memory, lambda done: tell(done / 2))
    digest = texts.digest(texts.held_out_text())
    predict = predictor(Path(quantized))
    return compare(predict, windows, memory, baseline, digest, lambda done: tell((1 + done) / 2)).model_dump_json()


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
