"""Texts of several lengths in one batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Integers = NDArray[np.integer[Any]]


def padded(texts: Sequence[Sequence[int]], length: int = 0) -> tuple[Ids, Ids]:
    """Token ids, (texts, tokens of the longest or `length`), and a mask that is 1 where there are some: on the left."""
    shape = len(texts), max(length, *map(len, texts))
    ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = text
        mask[row, : len(text)] = 1
    return ids, mask


def feed(ids: Ids, mask: Ids, inputs: set[str]) -> dict[str, Integers]:
    """What a model of OpenVINO's takes to read texts from their beginning: each has some of these inputs."""
    given: dict[str, Integers] = {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": np.zeros_like(ids),
        "position_ids": np.maximum(mask.cumsum(axis=1) - 1, 0),
        "beam_idx": np.arange(len(ids), dtype=np.int32),
    }
    return {name: value for name, value in given.items() if name in inputs}
