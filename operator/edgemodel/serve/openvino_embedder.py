"""OpenVINO behind the front: embeds texts with the folder that OpenVINO Model Server serves too.

As there, the states that the model gives are pooled as the folder's `1_Pooling/config.json` says, and normalized.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import openvino
import openvino_genai
from numpy.typing import NDArray

from edgemodel.serve.engine import EngineSettings, ModelRefusedError
from edgemodel.serve.openvino_genai import cpu_properties
from edgemodel.serve.padding import Ids, feed, padded

MODEL, POOLING = "openvino_model.xml", "1_Pooling/config.json"

_LENGTHS = 32
"""Batches are as long as a multiple of it: for each shape that it has seen, OpenVINO keeps some memory."""

States = NDArray[np.float32]


class OpenVinoEmbedder:
    """An engine that embeds."""

    def __init__(self, settings: EngineSettings) -> None:
        folder, device = settings.model_dir, settings.device or "CPU"
        properties = cpu_properties(settings.threads) if device.startswith("CPU") else {}
        try:
            self._tokenizer: Any = openvino_genai.Tokenizer(folder)
            compiled = openvino.Core().compile_model(folder / MODEL, device, properties)
            self._pool: Callable[[States, Ids], States] = _POOLS[_mode(json.loads((folder / POOLING).read_text()))]
        except (RuntimeError, OSError, KeyError) as error:
            reason = re.split(r":\d+:\s+", str(error))[-1].strip()
            raise ModelRefusedError(f"OpenVINO cannot load the model on {device}: {reason[:300]}") from None
        self._context_length = settings.context_length
        self._request = compiled.create_infer_request()
        self._inputs = {name for tensor in compiled.inputs for name in tensor.names}
        self.vocabulary = len(self._tokenizer.get_vocab_vector())

    def encode(self, text: str) -> list[int]:
        """Token ids."""
        ids: list[int] = self._tokenizer.encode(text).input_ids.data.ravel().tolist()
        return ids

    def embed(self, texts: Sequence[Sequence[int]]) -> list[list[float]]:
        """The embedding of each text."""
        length = -(-max(map(len, texts)) // _LENGTHS) * _LENGTHS
        ids, mask = padded(texts, min(length, self._context_length))
        states: States = self._request.infer(feed(ids, mask, self._inputs))["last_hidden_state"]
        embeddings = self._pool(states, mask)
        embeddings /= np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
        found: list[list[float]] = embeddings.tolist()
        return found

    def close(self) -> None:
        """Gives back what it holds."""
        self._request = self._tokenizer = None


def _mode(config: Mapping[str, object]) -> str:
    (mode,) = [name for name, value in config.items() if name.startswith("pooling_mode_") and value is True]
    return mode


def _mean(states: States, mask: Ids) -> States:
    weights = mask[:, :, None].astype(np.float32)
    found: States = (states * weights).sum(axis=1) / weights.sum(axis=1)
    return found


_POOLS: dict[str, Callable[[States, Ids], States]] = {
    "pooling_mode_mean_tokens": _mean,
    "pooling_mode_cls_token": lambda states, _: states[:, 0].copy(),
    "pooling_mode_lasttoken": lambda states, mask: states[np.arange(len(mask)), mask.sum(axis=1) - 1],
}
