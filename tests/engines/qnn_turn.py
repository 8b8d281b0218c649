"""QNN's toolchain and engine, turned in a Python with QNN: `qnn_turn.py SOURCE MINILM WORK` makes the model in SOURCE
in each scheme and for each chip, and all-MiniLM-L6-v2 in one, and prints as JSON what became of them."""

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from transformers import AutoModel, AutoTokenizer

from edgemodel.core.snapdragons import SNAPDRAGONS, target_of
from edgemodel.pipeline import qnn_steps
from edgemodel.pipeline.embeddings import held_out_passages
from edgemodel.pipeline.qnn_schemes import DEFAULT_SCHEME, SCHEMES
from edgemodel.serve import qnn
from edgemodel.serve.engine import EngineSettings, ModelRefusedError
from edgemodel.serve.qnn import QnnEmbedder
from edgemodel.serve.qnn_artifact import CONTEXT, DESCRIPTION, MODEL

TARGET = "sm8650-v75"
TEXTS = ["A cat sat.", "Tom went to the river.", *held_out_passages()[:2]]


def made(source: Path, full: Path, folder: Path, scheme: str, target: str = TARGET) -> Path:
    """An artifact."""
    folder.mkdir()
    qnn_steps.quantize(str(source), str(full), str(folder), scheme)
    qnn_steps.compile(str(source), str(folder), target)
    return folder


def compiled(folder: Path) -> dict[str, Any]:
    """What QNN says of what it compiled."""
    (context,) = folder.glob("*.bin")
    said = dict(re.findall(rb"\b(soc_type|min_arch)=(\w+)", context.read_bytes()))
    operators = [node.op_type for node in onnx.load(folder / CONTEXT).graph.node]
    return {"operators": operators, "soc": said[b"soc_type"].decode(), "htp": said[b"min_arch"].decode()}


def quality(full: Path, folder: Path, texts: Iterable[str] = TEXTS) -> list[float]:
    """Cosines of the artifact's embeddings to those of `transformers`."""
    source = full.parent / "source"
    tokenizer, model = AutoTokenizer.from_pretrained(source), AutoModel.from_pretrained(source).eval()
    engine = QnnEmbedder(settings(folder))
    length = engine._description.length
    found = []
    with torch.no_grad():
        for text in texts:
            read = tokenizer(text, return_tensors="pt", truncation=True, max_length=length)
            ids = read["input_ids"][0].tolist()
            wanted = torch.nn.functional.normalize(model(**read).last_hidden_state[0].mean(0), dim=0).numpy()
            found.append(float(np.dot(wanted, engine.embed([ids])[0])))
    engine.close()
    return found


def settings(folder: Path, **options: Any) -> EngineSettings:
    """An engine on an artifact."""
    length = json.loads((folder / DESCRIPTION).read_text())["length"]
    return EngineSettings(folder, **{"context_length": length, "parallel": 4, "threads": 1} | options)


def refusal(make: Callable[[], object]) -> str:
    """Why the engine does not serve."""
    try:
        make()
    except ModelRefusedError as error:
        return str(error)
    return "it was not refused"


def turned(folder: Path) -> dict[str, Any]:
    """What the engine does."""
    engine = QnnEmbedder(settings(folder))
    ids = [engine.encode(text)[:64] for text in TEXTS]
    alone = [engine.embed([text])[0] for text in ids]
    processor = QnnEmbedder(settings(folder, device="cpu"))
    found = {
        "lengths": [float(np.linalg.norm(one)) for one in alone],
        "in a batch": engine.embed(ids) == alone,
        "encoded": engine.encode("a cat"),
        "vocabulary": engine.vocabulary,
        "on the processor": [float(np.dot(*pair)) for pair in zip(processor.embed(ids), alone, strict=True)],
        "power modes": [
            QnnEmbedder(settings(folder, power_mode=mode)).embed(ids[:1])[0] == alone[0]
            for mode in ("Balanced", "HighPerformance", "PowerSaver")
        ],
    }
    try:
        engine.embed([[10**6]])
    except Exception as error:
        found["failed"] = str(error)
    engine.close()
    return found


def refusals(folder: Path) -> dict[str, str]:
    """What the engine does not serve, and why."""
    other_sdk, cut = (Path(shutil.copytree(folder, folder.with_name(name))) for name in ("sdk", "cut"))
    description = json.loads((folder / DESCRIPTION).read_text())
    (other_sdk / DESCRIPTION).write_text(json.dumps(description | {"qnnSdk": "2.40.0"}))
    (context,) = cut.glob("*.bin")
    context.write_bytes(context.read_bytes()[:1000])
    found = {
        "sdk": refusal(lambda: QnnEmbedder(settings(other_sdk))),
        "cut": refusal(lambda: QnnEmbedder(settings(cut))),
        "length": refusal(lambda: QnnEmbedder(settings(folder, context_length=65))),
        "device": refusal(lambda: QnnEmbedder(settings(folder, device="gpu"))),
        "nothing": refusal(lambda: QnnEmbedder(EngineSettings(folder / "nothing", 64, 1, 1))),
    }
    qnn._MACHINE = folder.with_name("machine")
    for name, machine in (("other soc", "SM8550"), ("same soc", "sm8650"), ("unknown soc", "SM9999")):
        qnn._MACHINE.write_text(f"{machine}\n")
        found[name] = refusal(lambda: QnnEmbedder(settings(folder)))
    return found


def minilm(source: Path, work: Path) -> list[float]:
    """all-MiniLM-L6-v2, compiled for short texts, which the simulator takes seconds for."""
    qnn_steps.LONGEST = 48
    (work / "source").symlink_to(source)
    full = work / "full.onnx"
    qnn_steps.convert(str(source), str(full))
    return quality(full, made(source, full, work / "artifact", DEFAULT_SCHEME), TEXTS[:2])


def main() -> None:
    """Does it all."""
    source, mini, work = map(Path, sys.argv[1:])
    full = work / "full.onnx"
    (work / "source").symlink_to(source)
    qnn_steps.convert(str(source), str(full))
    artifacts = {scheme: made(source, full, work / scheme, scheme) for scheme in SCHEMES}
    default = artifacts[DEFAULT_SCHEME]
    targets = {}
    for target in sorted(map(target_of, SNAPDRAGONS)):
        folder = work / target
        folder.mkdir()
        shutil.copyfile(default / MODEL, folder / MODEL)
        qnn_steps.compile(str(source), str(folder), target)
        targets[target] = compiled(folder)
    (work / "mini").mkdir()
    found = {
        "cosines": {scheme: quality(full, folder) for scheme, folder in artifacts.items()},
        "bytes": {
            scheme: sum(path.stat().st_size for path in folder.iterdir()) for scheme, folder in artifacts.items()
        },
        "targets": targets,
        "folder": str(default),
        "engine": turned(default),
        "refusals": refusals(default),
        "minilm": minilm(mini, work / "mini"),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
