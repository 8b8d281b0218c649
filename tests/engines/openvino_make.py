"""Every scheme, in a Python with OpenVINO: `openvino_make.py MODEL FOLDER SCHEME...` converts the model to FOLDER/full,
makes each scheme of it in a folder of FOLDER, lets it answer, and prints a line of JSON about it. The first scheme is
made as the Job makes it; the others, to save time, with less of the calibration text."""

import json
import sys
from pathlib import Path
from typing import Any

from edgemodel.pipeline import openvino_steps
from edgemodel.pipeline.quality import compare, remember
from edgemodel.serve.engine import EngineSettings, Sampling
from edgemodel.serve.openvino_genai import OpenVinoGenAiEngine


def answer(folder: Path) -> dict[str, Any]:
    """What the model says, in a folder that has all that a server needs."""
    engine = OpenVinoGenAiEngine(EngineSettings(folder, 64, 1, 1))
    engine.add(1, engine.encode("Tom said to", special=True), Sampling(max_tokens=6, temperature=0))
    outputs = engine.step()
    while not (outputs and outputs[-1].finish):
        outputs += engine.step()
    text = engine.decode([token.id for output in outputs for token in output.tokens])
    engine.close()
    return {"answer": text, "finish": outputs[-1].finish}


def main() -> None:
    """Makes them all."""
    source, folder = sys.argv[1], Path(sys.argv[2])
    full, windows = folder / "full", folder / "windows.json"
    openvino_steps.convert(source, str(full), str(windows))
    texts = json.loads(windows.read_text())
    read = texts["held out"][:2]
    fewer = folder / "fewer.json"
    fewer.write_text(json.dumps(texts | {"calibration": texts["calibration"][:2]}))
    baseline = remember(openvino_steps.predictor(str(full)), read, folder / "logits", lambda _: None)
    for number, scheme in enumerate(sys.argv[3:]):
        made = folder / scheme
        made.mkdir()
        openvino_steps.quantize(str(full), str(made), scheme, str(fewer if number else windows))
        predict = openvino_steps.predictor(str(made))
        report = compare(predict, read, folder / "logits", baseline, "sha256:" + 64 * "0", lambda _: None)
        size = (made / "openvino_model.bin").stat().st_size
        for file in full.iterdir():
            if not (made / file.name).exists():
                (made / file.name).symlink_to(file)
        found = {"scheme": scheme, "quality": report.dump(), "weights": size} | answer(made)
        print(json.dumps(found), flush=True)


main()
