"""Fuses a LoRA adapter into the weights of a model, before anything else is done with it.

LoRA adds to a matrix the product of two small ones, W + scale * B A (https://arxiv.org/abs/2106.09685). PEFT keeps A as
`lora_A.weight`, (rank, in), and B as `lora_B.weight`, (out, rank), and says alpha: the scale is alpha / rank. mlx-lm
keeps the transposed of both as `lora_a` and `lora_b`, and says the scale.
"""

import json
import math
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemodel.pipeline.adapter import CONFIG, MLX, PEFT
from edgemodel.pipeline.errors import MalformedError, SourceUnsupportedError

_PEFT_NAME = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<half>[AB])(?:\.default)?\.weight")
_MLX_NAME = re.compile(r"(?P<module>.+)\.lora_(?P<half>[ab])")
_DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}

Floats = NDArray[np.float32]


def fuse(model: Path, adapter: Path, target: Path) -> None:
    """Writes the model in the folder `model` with the adapter in its weights to the folder `target`.
    `SourceUnsupportedError` if it changes what the model has not, or is more than LoRA."""
    changes = _changes(adapter)
    shutil.copytree(model, target)
    for path in sorted(target.glob("*.safetensors")):
        tensors = _tensors(path, "r+")
        for name in changes.keys() & tensors.keys():
            tensors[name].add(changes.pop(name))
    if changes:
        raise SourceUnsupportedError(
            f"the adapter changes {min(changes)}, which the model has not: name the model that it was trained on"
        )


@dataclass(frozen=True)
class _Tensor:
    """A tensor in a safetensors file that is mapped into memory."""

    name: str
    dtype: str
    shape: list[int]
    raw: NDArray[np.uint8]

    def read(self) -> Floats:
        if self.dtype not in _DTYPES:
            raise SourceUnsupportedError(f"{self.name} is of {self.dtype}: an adapter wants {', '.join(_DTYPES)}")
        values = self.raw.view(_DTYPES[self.dtype]).reshape(self.shape)
        if self.dtype == "BF16":  # the upper half of a float32
            values = (values.astype(np.uint32) << 16).view(np.float32)
        found: Floats = values.astype(np.float32)
        return found

    def add(self, change: Callable[[], Floats]) -> None:
        values = self.read()
        difference = change()
        if difference.shape != values.shape:
            raise SourceUnsupportedError(
                f"the adapter's {self.name} has the shape {difference.shape}, the model's {values.shape}: "
                "name the model that it was trained on"
            )
        values += difference
        if self.dtype == "BF16":  # to the nearest, and of two to the even
            bits = values.view(np.uint32)
            stored: NDArray[Any] = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
        else:
            stored = values.astype(_DTYPES[self.dtype])
        self.raw[:] = np.ascontiguousarray(stored).view(np.uint8).ravel()


def _tensors(path: Path, mode: Any = "r") -> dict[str, _Tensor]:
    """The tensors of a file that the resolver has found well-formed, or that is small (an adapter)."""
    try:
        data = np.memmap(path, np.uint8, mode)
        start = 8 + int(data[:8].view("<u8")[0])
        header: dict[str, Any] = json.loads(bytes(data[8:start]))
        header.pop("__metadata__", None)
        found = {}
        for name, entry in header.items():
            first, last = entry["data_offsets"]
            found[name] = _Tensor(name, entry["dtype"], entry["shape"], data[start + first : start + last])
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise MalformedError(f"{path.name} is no safetensors file, or damaged: upload it again") from None
    return found


def _changes(adapter: Path) -> dict[str, Callable[[], Floats]]:
    """Name of a weight -> what is added to it."""
    try:
        config = json.loads((adapter / CONFIG).read_text())
    except ValueError:
        raise MalformedError(f"the adapter's {CONFIG} is not JSON: upload it again") from None
    peft = (adapter / PEFT).exists()
    halves: dict[str, dict[str, _Tensor]] = {}
    for name, tensor in _tensors(adapter / (PEFT if peft else MLX)).items():
        match = (_PEFT_NAME if peft else _MLX_NAME).fullmatch(name)
        if match is None:
            raise SourceUnsupportedError(f"the adapter has {name}, which is not LoRA's: use one of LoRA alone")
        halves.setdefault(match["module"], {})[match["half"].lower()] = tensor
    scale = _peft_scale(config) if peft else _mlx_scale(config)
    lonely = [module for module, found in halves.items() if len(found) < 2]
    if lonely or not halves:
        raise MalformedError(f"the adapter lacks a half of {min(lonely, default='everything')}: upload it again")
    return {f"{module}.weight": _product(found, peft, scale) for module, found in halves.items()}


def _product(halves: Mapping[str, _Tensor], peft: bool, scale: Callable[[int], float]) -> Callable[[], Floats]:
    def compute() -> Floats:
        one, other = halves["a"].read(), halves["b"].read()
        if not peft:
            one, other = one.T, other.T
        if one.ndim != 2 or other.ndim != 2 or other.shape[1] != one.shape[0]:
            raise MalformedError(f"the adapter's {halves['a'].name} does not fit its other half: upload it again")
        return (other @ one) * np.float32(scale(len(one)))

    return compute


def _peft_scale(config: Mapping[str, Any]) -> Callable[[int], float]:
    kind = str(config.get("peft_type", "LORA")).upper()
    more = [name for name in ("use_dora", "alpha_pattern", "fan_in_fan_out", "modules_to_save") if config.get(name)]
    alpha = config.get("lora_alpha")
    if kind != "LORA" or more or not isinstance(alpha, int | float):
        what = ", ".join([*more, *([kind] if kind != "LORA" else [])]) or "no lora_alpha"
        raise SourceUnsupportedError(f"the adapter has {what}: only LoRA of one alpha can be fused")
    return (lambda rank: alpha / math.sqrt(rank)) if config.get("use_rslora") else (lambda rank: alpha / rank)


def _mlx_scale(config: Mapping[str, Any]) -> Callable[[int], float]:
    kind, parameters = config.get("fine_tune_type", "lora"), config.get("lora_parameters")
    scale = parameters.get("scale") if isinstance(parameters, Mapping) else None
    if kind != "lora" or not isinstance(scale, int | float):
        raise SourceUnsupportedError(f"the adapter is {kind!r} of scale {scale}: only LoRA can be fused")
    return lambda _: float(scale)
