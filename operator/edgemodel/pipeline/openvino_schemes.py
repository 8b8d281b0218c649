"""The quantization schemes for OpenVINO, as data: for the pipeline and for the EdgeRuntime that offers them.

All of them compress weights alone. The names are NNCF's modes; what follows a mode is what its documentation calls
the option. `bits` are those of Llama 3.1 8B, reckoned: its embeddings and its output layer, an eighth of it, have 8
bits where the others have 4; each group of weights has a scale of 16 bits, and in an asymmetric mode a zero point.
"""

from typing import NamedTuple

from edgemodel.api.runtime import Scheme


class OpenVinoScheme(NamedTuple):
    """A scheme as NNCF has it."""

    mode: str | None
    """The name of its `CompressWeightsMode`; None: nothing is compressed."""
    bits: str
    """Average bits a weight."""
    group_size: int | None = None
    """Weights that share a scale, or the next lower power of two that divides a layer; -1: all of an output channel."""
    ratio: float | None = None
    """The share of the inner layers' weights that have 4 bits, the least sensitive ones. The others have 8."""
    awq: bool = False
    """Whether channels are scaled by how much their activations matter."""
    scale_estimation: bool = False
    """Whether scales are sought that keep each layer's results."""

    @property
    def calibrated(self) -> bool:
        """Whether calibration text goes into it."""
        return self.awq or self.scale_estimation


DEFAULT_SCHEME = "INT4_ASYM_AWQ"

SCHEMES = {
    "INT4_SYM_CW": OpenVinoScheme("INT4_SYM", "4.53", -1, 1.0),
    "INT4_SYM": OpenVinoScheme("INT4_SYM", "4.63", 128, 1.0),
    "INT4_SYM_AWQ": OpenVinoScheme("INT4_SYM", "4.63", 128, 1.0, awq=True),
    "INT4_SYM_AWQ_SE": OpenVinoScheme("INT4_SYM", "4.63", 128, 1.0, awq=True, scale_estimation=True),
    "INT4_ASYM": OpenVinoScheme("INT4_ASYM", "4.66", 128, 1.0),
    "INT4_ASYM_AWQ": OpenVinoScheme("INT4_ASYM", "4.66", 128, 1.0, awq=True),
    "INT4_ASYM_AWQ_SE": OpenVinoScheme("INT4_ASYM", "4.66", 128, 1.0, awq=True, scale_estimation=True),
    "INT4_ASYM_MIXED": OpenVinoScheme("INT4_ASYM", "5.33", 128, 0.8),
    "INT8": OpenVinoScheme("INT8_ASYM", "8.01"),
    "FP16": OpenVinoScheme(None, "16.0"),
}
"""By size. INT4_SYM_CW (channel-wise) is what Intel's NPUs take."""


def runtime_schemes() -> list[Scheme]:
    """The schemes as an EdgeRuntime lists them."""
    return [
        Scheme(name=name, bits_per_weight=scheme.bits, calibrated=scheme.calibrated) for name, scheme in SCHEMES.items()
    ]
