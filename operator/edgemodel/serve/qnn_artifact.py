"""What an artifact for QNN is: its files, the inputs of its model, and where it runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgemodel.api.base import ApiModel
from edgemodel.core.snapdragons import SNAPDRAGONS
from edgemodel.serve.engine import ModelRefusedError

DESCRIPTION, MODEL, CONTEXT, TOKENIZER = "qnn.json", "model.onnx", "context.onnx", "tokenizer.json"
"""The artifact's files: what it is, the quantized model, what is compiled of it, the tokenizer."""
IDS, MASK, POOLING, EMBEDDING = "input_ids", "attention_mask", "pooling", "embedding"
"""The model's inputs, and its output. The mask is what is added to attention's scores; `pooling` is what each token's
state counts."""
MASKED = -32.0
"""Where there is no token: e^-32 of a share is none. Models have the lowest float there; within a range that wide, no
integer would tell the other scores apart."""

Pool = Literal["mean", "cls", "last"]


class Description(ApiModel):
    """What an artifact is, and where it runs."""

    length: int
    """Tokens of a text, at the most."""
    pooling: Pool
    """How a text's embedding is made of its tokens' states."""
    normalize: bool
    """Whether embeddings have length 1."""
    soc: str
    """The SoC that it is compiled for, for example `SM8650`."""
    soc_model: int
    """QNN's number of that SoC."""
    htp_architecture: str
    """The architecture of its HTP, for example `v75`."""
    qnn_sdk: str
    """The version of Qualcomm's SDK that compiled it."""

    @classmethod
    def read(cls, folder: Path) -> "Description":
        """That of the artifact in a folder."""
        return cls.model_validate_json((folder / DESCRIPTION).read_bytes())

    def refuse_elsewhere(self, machine: str, sdk: str) -> None:
        """Refuses a node whose kernel calls its SoC by another name that is known, and another SDK. `machine` is empty
        where the kernel knows of no SoC. A SoC that only its HardwareClass knows is left to QNN to judge."""
        if sdk != self.qnn_sdk:
            raise ModelRefusedError(
                f"the artifact was compiled by QNN {self.qnn_sdk}, and this image has QNN {sdk}: use the image that "
                "belongs to the EdgeRuntime's pipeline, or raise pipeline.version to have the artifact made anew"
            )
        here = SNAPDRAGONS.get(machine)
        if here and here.model != self.soc_model:
            raise ModelRefusedError(
                f"the artifact is compiled for {self.soc} (HTP {self.htp_architecture}), and this node is a {machine} "
                f"(HTP {here.htp}): correct the node's labels, or the target of its class in the EdgeRuntime"
            )


def inputs(text: Sequence[int], length: int, pool: Pool) -> dict[str, NDArray[Any]]:
    """A text as the model takes it."""
    ids = np.zeros((1, length), np.int32)
    mask = np.full((1, 1, 1, length), MASKED, np.float32)
    pooling = np.zeros((1, 1, length), np.float32)
    count = len(text)
    ids[0, :count] = text
    mask[..., :count] = 0
    match pool:
        case "mean":
            pooling[0, 0, :count] = 1 / count
        case "cls":
            pooling[0, 0, 0] = 1
        case "last":
            pooling[0, 0, count - 1] = 1
    return {IDS: ids, MASK: mask, POOLING: pooling}
