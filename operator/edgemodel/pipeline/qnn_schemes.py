"""The quantization schemes of QNN, as data, and which tensors of a model have which type in them."""

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from edgemodel.api.runtime import Scheme
from edgemodel.serve.qnn_artifact import MASK, POOLING


class QnnScheme(NamedTuple):
    """A scheme of ONNX Runtime's quantizer. Weights have 8 bits in all of them: those of matrices in a range for each
    output channel, for one range for all is what costs most."""

    activations: int
    """Bits of activations."""
    attention: int
    """Bits of those that attention multiplies with each other: queries, keys, values, and how much each counts."""
    bits: str
    """Average bits a weight."""
    calibrated: bool = True
    """Ranges of activations are found on the calibration text."""


DEFAULT_SCHEME = "A16W8"

SCHEMES = {
    "A8W8": QnnScheme(8, 8, "18.3"),
    "A16W8": QnnScheme(16, 16, "23.1"),
    "A16W8_MIXED": QnnScheme(16, 8, "23.2"),
}
"""The bits are those of all-MiniLM-L6-v2's whole artifact, which has the weights twice: in the quantized model, and in
what is compiled of it. Many models lose much of their sense at A8W8: the quality report says how much."""


class Node(NamedTuple):
    """An operation of a model, as far as its tensors' types depend on it."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def tensor_types(scheme: QnnScheme, nodes: Iterable[Node], weights: Collection[str]) -> dict[str, dict[str, Any]]:
    """Tensors that have another type than the scheme's activations, as options of ONNX Runtime's quantizer but for its
    types, which are named. `weights` are the model's constants."""
    activations = f"QUInt{scheme.activations}"
    # A token's share of a long text is too small for 8 bits.
    found: dict[str, dict[str, Any]] = {MASK: {"quant_type": activations}, POOLING: {"quant_type": "QUInt16"}}
    for node in nodes:
        constant = [name for name in node.inputs if name in weights]
        if node.operator == "MatMul" and constant == list(node.inputs[1:]):
            found[constant[0]] = {"quant_type": "QInt8", "axis": 1, "symmetric": True}
        elif node.operator == "MatMul" and not constant and POOLING not in node.inputs:
            if scheme.attention < scheme.activations:
                found |= {name: {"quant_type": f"QUInt{scheme.attention}"} for name in node.inputs}
        elif node.operator == "Gather" and constant == [node.inputs[0]]:
            found[constant[0]] = {"quant_type": "QUInt8"}
            if scheme.activations > 8:
                found[node.outputs[0]] = {"quant_type": "QUInt8", "convert": {"quant_type": activations}}
    return found


def runtime_schemes() -> list[Scheme]:
    """The schemes as an EdgeRuntime lists them."""
    return [
        Scheme(name=name, bits_per_weight=scheme.bits, calibrated=scheme.calibrated) for name, scheme in SCHEMES.items()
    ]
