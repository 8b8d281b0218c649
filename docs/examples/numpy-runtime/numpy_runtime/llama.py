"""A Llama in NumPy, and the folder that it is kept in: config.json, tokenizer.model and weights.npz."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

WEIGHTS = "weights.npz"
SCALE = ".scale"
"""What follows a matrix' name in the name of its rows' scales."""

Floats = NDArray[np.float32]
Cache = dict[int, tuple[Floats, Floats]]
"""Layer -> keys and values so far, each (heads, tokens, head size)."""


class Llama:
    """Computes a model's logits. A matrix at eight bits is widened while it is used, and no longer."""

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        with np.load(folder / WEIGHTS) as stored:
            self._weights: Mapping[str, NDArray[Any]] = dict(stored)
        self._layers = int(config["num_hidden_layers"])
        self._heads = int(config["num_attention_heads"])
        self._kv_heads = int(config["num_key_value_heads"])
        self._head_size = int(config.get("head_dim") or config["hidden_size"] // self._heads)
        self._epsilon = float(config["rms_norm_eps"])
        theta = float((config.get("rope_parameters") or config)["rope_theta"])
        self._frequencies = theta ** (-np.arange(0, self._head_size, 2, dtype=np.float32) / self._head_size)

    def logits(self, tokens: NDArray[np.int64], cache: Cache) -> Floats:
        """The logits after each of the tokens, (tokens, vocabulary); they follow on those in the cache."""
        position = cache[0][0].shape[1] if cache else 0
        embedding = self._weights["model.embed_tokens.weight"][tokens].astype(np.float32)
        state = embedding * self._weights[f"model.embed_tokens.weight{SCALE}"][tokens, None]
        for layer in range(self._layers):
            name = f"model.layers.{layer}"
            normed = self._normed(state, f"{name}.input_layernorm")
            state = state + self._attention(normed, f"{name}.self_attn", layer, position, cache)
            normed = self._normed(state, f"{name}.post_attention_layernorm")
            gate = self._times(normed, f"{name}.mlp.gate_proj")
            up = self._times(normed, f"{name}.mlp.up_proj")
            state = state + self._times(gate / (1 + np.exp(-gate)) * up, f"{name}.mlp.down_proj")
        return self._times(self._normed(state, "model.norm"), "lm_head")

    def _attention(self, state: Floats, name: str, layer: int, position: int, cache: Cache) -> Floats:
        count = len(state)
        queries = self._rotated(self._split(self._times(state, f"{name}.q_proj"), self._heads), position)
        keys = self._rotated(self._split(self._times(state, f"{name}.k_proj"), self._kv_heads), position)
        values = self._split(self._times(state, f"{name}.v_proj"), self._kv_heads)
        if layer in cache:
            keys = np.concatenate([cache[layer][0], keys], axis=1)
            values = np.concatenate([cache[layer][1], values], axis=1)
        cache[layer] = keys, values
        shared = self._heads // self._kv_heads
        scores = queries @ np.repeat(keys, shared, axis=0).transpose(0, 2, 1) / np.sqrt(np.float32(self._head_size))
        scores += np.triu(np.full((count, position + count), -np.inf, np.float32), position + 1)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        found = weights @ np.repeat(values, shared, axis=0)
        return self._times(found.transpose(1, 0, 2).reshape(count, -1), f"{name}.o_proj")

    def _times(self, state: Floats, name: str) -> Floats:
        matrix = self._weights[f"{name}.weight"]
        product: Floats = state @ matrix.astype(np.float32).T * self._weights[f"{name}.weight{SCALE}"]
        return product

    def _normed(self, state: Floats, name: str) -> Floats:
        length = np.sqrt((state * state).mean(axis=-1, keepdims=True) + self._epsilon)
        normed: Floats = state / length * self._weights[f"{name}.weight"]
        return normed

    def _split(self, state: Floats, heads: int) -> Floats:
        return state.reshape(len(state), heads, self._head_size).transpose(1, 0, 2)

    def _rotated(self, state: Floats, position: int) -> Floats:
        angles = np.outer(np.arange(position, position + state.shape[1], dtype=np.float32), self._frequencies)
        cosine, sine = np.cos(angles), np.sin(angles)
        one, other = np.split(state, 2, axis=-1)
        return np.concatenate([one * cosine - other * sine, other * cosine + one * sine], axis=-1)
