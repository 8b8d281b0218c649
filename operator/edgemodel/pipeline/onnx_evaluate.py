"""Compares an ONNX model with the unquantized one: `python -m edgemodel.pipeline.onnx_evaluate SOURCE FULL ARTIFACT
THREADS REPORT` writes the quality report as JSON. A process of its own, as `onnx_olive` is.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime_genai as og
from numpy.typing import NDArray

from edgemodel.api.artifact import QualityReport
from edgemodel.pipeline import texts
from edgemodel.pipeline.pretrained import Pretrained
from edgemodel.pipeline.quality import Predict, compare, remember


def evaluate(source: Path, full: Path, artifact: Path, threads: int, memory: Path) -> QualityReport:
    """What the artifact is worth. The unquantized model's predictions are kept in the file `memory` meanwhile."""
    pretrained = Pretrained.at(source)
    windows = pretrained.held_out_windows()
    baseline = remember(_predict(full, threads), windows, memory, lambda share: _say(share / 2))
    digest = texts.digest(texts.held_out_text())
    predict = _predict(artifact, threads)
    return compare(predict, windows, memory, baseline, digest, lambda share: _say((1 + share) / 2))


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


def _say(share: float) -> None:
    print(f"evaluated {share:.3f}", flush=True)


def main() -> None:
    """Evaluates as the command line says."""
    source, full, artifact, threads, report = sys.argv[1:]
    found = evaluate(Path(source), Path(full), Path(artifact), int(threads), Path(report).with_name("logits"))
    Path(report).write_text(found.model_dump_json())


if __name__ == "__main__":
    main()
