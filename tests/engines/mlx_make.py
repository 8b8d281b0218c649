"""Every scheme, in a Python with MLX: `mlx_make.py FULL FOLDER SCHEME...` makes each of `FULL` in a folder of `FOLDER`,
lets it answer, and prints a line of JSON about it. Its figures are for a part of the held-out text."""

import json
import sys
import threading
from pathlib import Path
from typing import Any

from mlx_lm.utils import load_config

from edgemodel.pipeline.mlx_convert import convert
from edgemodel.pipeline.mlx_evaluate import predictor
from edgemodel.pipeline.pretrained import Pretrained
from edgemodel.pipeline.quality import compare, remember
from edgemodel.serve.engine import EngineSettings, Sampling
from edgemodel.serve.mlx import MlxEngine


def answer(folder: Path, found: dict[str, Any]) -> None:
    """What the model says."""
    engine = MlxEngine(EngineSettings(folder, 64, 1, 1))
    engine.add(1, engine.encode("Tom said to", special=True), Sampling(max_tokens=4, temperature=0))
    outputs = [output for _ in range(6) for output in (engine.step() if not found.get("finish") else [])]
    found["answer"] = engine.decode([token.id for output in outputs for token in output.tokens])
    found["finish"] = outputs[-1].finish
    engine.close()


def main() -> None:
    """Makes them all."""
    full, folder = Path(sys.argv[1]), Path(sys.argv[2])
    windows = [window[:128] for window in Pretrained(full, load_config(full)).held_out_windows()[:2]]
    baseline = remember(predictor(full), windows, folder / "logits", lambda _: None)
    for scheme in sys.argv[3:]:
        made = folder / scheme
        convert(str(full), str(made), scheme)
        report = compare(predictor(made), windows, folder / "logits", baseline, "sha256:" + 64 * "0", lambda _: None)
        found: dict[str, Any] = {"scheme": scheme, "quality": report.dump()}
        found["weights"] = (made / "model.safetensors").stat().st_size
        thread = threading.Thread(target=answer, args=[made, found])
        thread.start()
        thread.join()
        print(json.dumps(found), flush=True)


main()
