"""The quantization schemes of llama.cpp, as data: for the pipeline and for the EdgeRuntime that offers them.

`bits` are what the authors of llama.cpp measured on Llama 3.1 8B, whole file; where they give none, the bits of the
block format and what embeddings and output layer add at that size.
"""

from typing import NamedTuple

from edgemodel.api.runtime import Scheme


class LlamaScheme(NamedTuple):
    """A scheme as llama.cpp has it."""

    ftype: int
    """Its number in `enum llama_ftype`."""
    bits: str
    """Average bits a weight."""
    calibrated: bool
    """Whether its quantizer takes an importance matrix."""


DEFAULT_SCHEME = "Q4_K_M"

SCHEMES = {
    "Q1_0": LlamaScheme(40, "1.60", False),
    "IQ1_S": LlamaScheme(24, "2.0042", True),
    "TQ1_0": LlamaScheme(36, "2.10", False),
    "IQ1_M": LlamaScheme(31, "2.1460", True),
    "IQ2_XXS": LlamaScheme(19, "2.3824", True),
    "TQ2_0": LlamaScheme(37, "2.44", False),
    "IQ2_XS": LlamaScheme(20, "2.5882", True),
    "Q2_0": LlamaScheme(41, "2.62", False),
    "IQ2_S": LlamaScheme(28, "2.7403", True),
    "IQ2_M": LlamaScheme(29, "2.9294", True),
    "Q2_K_S": LlamaScheme(21, "2.9697", True),
    "Q2_K": LlamaScheme(10, "3.1593", True),
    "IQ3_XXS": LlamaScheme(23, "3.2548", True),
    "IQ3_XS": LlamaScheme(22, "3.4977", True),
    "Q3_K_S": LlamaScheme(11, "3.6429", True),
    "IQ3_S": LlamaScheme(26, "3.6606", True),
    "IQ3_M": LlamaScheme(27, "3.7628", True),
    "Q3_K_M": LlamaScheme(12, "3.9960", True),
    "Q3_K_L": LlamaScheme(13, "4.2979", True),
    "IQ4_XS": LlamaScheme(30, "4.4597", True),
    "Q4_0": LlamaScheme(2, "4.66", True),
    "Q4_K_S": LlamaScheme(14, "4.6672", True),
    "IQ4_NL": LlamaScheme(25, "4.6818", True),
    "Q4_K_M": LlamaScheme(15, "4.8944", True),
    "Q4_1": LlamaScheme(3, "5.11", True),
    "Q5_0": LlamaScheme(8, "5.56", True),
    "Q5_K_S": LlamaScheme(16, "5.5704", True),
    "Q5_K_M": LlamaScheme(17, "5.7036", True),
    "Q5_1": LlamaScheme(9, "6.03", True),
    "Q6_K": LlamaScheme(18, "6.5633", True),
    "Q8_0": LlamaScheme(7, "8.5008", False),
    "MXFP4_MOE": LlamaScheme(38, "8.51", False),
    "F16": LlamaScheme(1, "16.0005", False),
    "BF16": LlamaScheme(32, "16.0005", False),
    "F32": LlamaScheme(0, "32.0", False),
}
"""By size. MXFP4_MOE is for experts alone: all else becomes Q8_0, so that its figure is for a model without any.
Left out are `Q3_K`, `Q4_K` and `Q5_K`, llama.cpp's aliases for their `_M`, and `COPY`, which makes nothing.
"""


def runtime_schemes() -> list[Scheme]:
    """The schemes as an EdgeRuntime lists them."""
    return [
        Scheme(name=name, bits_per_weight=scheme.bits, calibrated=scheme.calibrated) for name, scheme in SCHEMES.items()
    ]
