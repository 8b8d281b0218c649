"""Makes the artifacts: each row of a matrix in whole numbers from -127 to 127, and a scale."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentencepiece import SentencePieceProcessor

from edgemodel.api.artifact import Recipe, ResolvedSource
from edgemodel.pipeline import texts
from edgemodel.pipeline.errors import UnknownSchemeError, UnsupportedArchitectureError
from edgemodel.pipeline.measure import measure
from edgemodel.pipeline.progress import Step
from edgemodel.pipeline.quality import Predict, compare, remember, windows
from edgemodel.pipeline.toolchain import Product
from numpy_runtime.llama import SCALE, WEIGHTS, Llama

VERSION = "1.0"
_TYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
_KEPT = ("config.json", "tokenizer.model")


class NumpyToolchain:
    """What EdgeModel's Job calls."""

    def check(self, recipe: Recipe) -> None:
        """Refuses what it cannot make, before anything is fetched."""
        if (recipe.scheme, recipe.task) != ("INT8", "TextGeneration"):
            raise UnknownSchemeError(f"NumPy has INT8 for TextGeneration alone, not {recipe.scheme} for {recipe.task}")

    def make(
        self, source: Path, resolved: ResolvedSource, recipe: Recipe, work: Path, begin: Callable[[str], Step]
    ) -> Product:
        """Quantizes, evaluates and measures."""
        if resolved.model.architecture != "LlamaForCausalLM" or not (source / "tokenizer.model").exists():
            raise UnsupportedArchitectureError(
                f"NumPy computes LlamaForCausalLM with a tokenizer.model, not {resolved.model.architecture}"
            )
        step = begin("Quantize")
        full = _folder(source, work / "full", _widened)
        step.share(0.5)
        artifact = _folder(source, work / "artifact", _quantized)
        step = begin("Evaluate")
        tokenizer = SentencePieceProcessor(model_file=str(source / "tokenizer.model"))
        text = texts.held_out_text()
        held_out = windows(tokenizer.encode(text.decode()), resolved.model.context_length, tokenizer.bos_id())
        memory = work / "logits"
        baseline = remember(_predict(full), held_out, memory, lambda share: step.share(share / 2))
        quality = compare(
            _predict(artifact),
            held_out,
            memory,
            baseline,
            texts.digest(text),
            lambda share: step.share((1 + share) / 2),
        )
        return Product(
            folder=artifact,
            entrypoint=WEIGHTS,
            format="npz",
            tools={"numpy": np.__version__, "numpy-runtime": VERSION},
            baseline_bytes=sum(file.stat().st_size for file in full.iterdir()),
            quality=quality,
            performance=measure("numpy", np.__version__, artifact, full, 1, work, begin("Measure")),
        )


def _folder(source: Path, folder: Path, stored: Callable[[str, NDArray[np.float32]], dict[str, NDArray[Any]]]) -> Path:
    folder.mkdir()
    for name in _KEPT:
        shutil.copyfile(source / name, folder / name)
    parts = [stored(name, weights) for name, weights in _tensors(source)]
    arrays: dict[str, Any] = {name: array for part in parts for name, array in part.items()}
    np.savez(folder / WEIGHTS, **arrays)
    return folder


def _tensors(source: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The weights in the safetensors files: https://huggingface.co/docs/safetensors says how they lie there."""
    for path in sorted(source.glob("*.safetensors")):
        data = np.memmap(path, np.uint8, "r")
        start = 8 + int(data[:8].view("<u8")[0])
        header = json.loads(bytes(data[8:start]))
        header.pop("__metadata__", None)
        for name, tensor in sorted(header.items()):
            first, last = tensor["data_offsets"]
            values = data[start + first : start + last].view(_TYPES[tensor["dtype"]])
            if tensor["dtype"] == "BF16":  # the upper half of a float32
                values = (values.astype(np.uint32) << 16).view(np.float32)
            yield name, values.astype(np.float32).reshape(tensor["shape"])


def _quantized(name: str, weights: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    if weights.ndim == 1:
        return {name: weights}
    scale = np.maximum(np.abs(weights).max(axis=1), 1e-12) / 127
    return {name: np.rint(weights / scale[:, None]).astype(np.int8), name + SCALE: scale.astype(np.float32)}


def _widened(name: str, weights: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    if weights.ndim == 1:
        return {name: weights}
    return {name: weights, name + SCALE: np.ones(len(weights), np.float32)}


def _predict(folder: Path) -> Predict:
    model = Llama(folder)
    return lambda window: model.logits(np.asarray(window), {})
