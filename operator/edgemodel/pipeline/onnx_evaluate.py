"""Compares an ONNX model with the unquantized one, in the step `evaluate`."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime_genai as og
from numpy.typing import NDArray

from edgemodel.pipeline import texts
from edgemodel.pipeline.pretrained import Pretrained
from edgemodel.pipeline.quality import Predict, compare, remember
from edgemodel.pipeline.steps import tell


def evaluate(source: str, full: str, artifact: str, threads: str, logits: str) -> str:
    """The artifact beside the unquantized model, whose predictions are kept in the file `logits` meanwhile. The result
    is the quality report."""
    windows, memory = Pretrained.at(Path(source)).held_out_windows(), Path(logits)
    baseline = remember(_predict(Path(full), int(threads)), windows, memory, lambda done: tell(done / 2))
    digest = texts.digest(texts.held_out_text())
    predict = _predict(Path(artifact), int(threads))
    return compare(predict, windows, memory, baseline, digest, lambda done: tell((1 + done) / 2)).model_dump_json()


def _predict(folder: Path, threads: int) -> Predict:
    """The model as the engine that serves it computes it."""
    config = og.Config(str(folder))
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
    model = og.Model(config)

    def predict(window: Sequence[int]) -> NDArray[np.float32]:
        parameters = og.GeneratorParams(model)
        parameters.set_search_options(max_length=len(window))
        generator = og.Generator(model, parameters)
        generator.append_tokens(np.asarray(window, np.int32))
        logits: NDArray[np.float32] = generator.get_output("logits")[0]
        return logits

    return predict
