"""An engine that embeds, turned in the Python of its toolchain: `embedding_turn.py TOOLCHAIN SOURCE WORK SCHEME...`
makes each scheme of the model that a Job left unquantized in WORK, and prints as JSON what all of them are worth, and
what the engine does beside `transformers`, which has the model from SOURCE."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from edgemodel.pipeline.embeddings import compare_embeddings, held_out_passages
from edgemodel.pipeline.measure import embedder
from edgemodel.serve.engine import EmbeddingEngine, EngineSettings, ModelRefusedError

SLOTS, CONTEXT = 4, 512
ENGINES = {"llamacpp": "llama.cpp", "onnx": "onnxruntime", "openvino": "openvino"}
TEXTS = ["Hello, world!", "Tom went to the river.", *held_out_passages()[:6]]
"""Of several lengths."""


def llamacpp(_: Path, full: Path, made: Path, scheme: str) -> Path:
    from edgemodel.pipeline.llamacpp_quantize import quantize
    from edgemodel.pipeline.llamacpp_schemes import SCHEMES

    quantize(full, made, scheme, 1, full.with_name("imatrix.gguf") if SCHEMES[scheme].calibrated else None)
    return made


def onnx(source: Path, full: Path, made: Path, scheme: str) -> Path:
    from edgemodel.pipeline.onnx_olive import run_passes
    from edgemodel.pipeline.onnx_schemes import SCHEMES

    run_passes(source, full, made, SCHEMES[scheme].passes_for("Embeddings") or (), "Embeddings")
    return made


def openvino(_: Path, full: Path, made: Path, scheme: str) -> Path:
    from edgemodel.pipeline.openvino_steps import quantize

    made.mkdir()
    for file in full.iterdir():
        if not file.name.startswith("openvino_model."):
            (made / file.name).symlink_to(file)
    quantize(str(full), str(made), scheme, str(full.with_name("windows.json")))
    return made


MAKERS: dict[str, Callable[[Path, Path, Path, str], Path]] = {"llamacpp": llamacpp, "onnx": onnx, "openvino": openvino}


def one_by_one(engine: EmbeddingEngine) -> list[list[float]]:
    """The embeddings of the texts."""
    return [engine.embed([engine.encode(text)])[0] for text in TEXTS]


def reference(source: Path) -> list[list[float]]:
    """The same, as the authors of the model have it."""
    tokenizer, model = AutoTokenizer.from_pretrained(source), AutoModel.from_pretrained(source).eval()
    found = []
    with torch.no_grad():
        for text in TEXTS:
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
            found.append(torch.nn.functional.normalize(states.mean(0), dim=0).tolist())
    return found


def cosines(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> list[float]:
    """How alike they are."""
    found: list[float] = (np.array(one) * np.array(other)).sum(axis=1).tolist()
    return found


def turned(make: Callable[[Path], EmbeddingEngine], source: Path, full: Path) -> dict[str, Any]:
    """What the engine does."""
    tokenizer = AutoTokenizer.from_pretrained(source)
    engine = make(full)
    alone = one_by_one(engine)
    ids = [engine.encode(text) for text in TEXTS]
    batches = [engine.embed(ids[start : start + SLOTS]) for start in range(0, len(ids), SLOTS)]
    found = {
        "as the model's authors": cosines(alone, reference(source)),
        "same tokens": ids == [tokenizer(text)["input_ids"] for text in TEXTS],
        "in batches": cosines([one for batch in batches for one in batch], alone),
        "of a whole context": len(engine.embed([[101, *[7592] * (CONTEXT - 2), 102]])[0]),
        "long text": len(engine.encode("word " * 1000)),
        "vocabulary": engine.vocabulary,
    }
    engine.close()
    try:
        make(full.with_name("nothing"))
    except (ModelRefusedError, ValueError) as error:
        found["refused"] = str(error)
    return found


def main() -> None:
    """Does it all."""
    toolchain, source, work, *schemes = sys.argv[1:]
    full = Path(work, "full.gguf" if toolchain == "llamacpp" else "full")

    def make(model: Path) -> EmbeddingEngine:
        return embedder(ENGINES[toolchain])(EngineSettings(model, CONTEXT, SLOTS, 1))

    baseline = one_by_one(make(full))
    for scheme in schemes:
        made = MAKERS[toolchain](Path(source), full, full.with_name(f"made-{scheme}"), scheme)
        quality = compare_embeddings(baseline, one_by_one(make(made)), 1)
        files = [made] if made.is_file() else [path for path in made.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        print(json.dumps({"scheme": scheme, "cosine": quality.cosine, "bytes": size}), flush=True)
    print(json.dumps(turned(make, Path(source), full)))


main()
