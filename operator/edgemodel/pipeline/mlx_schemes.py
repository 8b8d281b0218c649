"""The quantization schemes of MLX, as data: for the pipeline and for the EdgeRuntime that offers them.

Their names are those that converted models are published under. `bits` are the bits of the format, with the scales of
its groups; for the mixed recipes, which give some layers more, what comes out of that for the shapes of Llama 3.1 8B.
"""

from typing import NamedTuple

from edgemodel.api.runtime import Scheme


class MlxScheme(NamedTuple):
    """A scheme as mlx-lm has it."""

    bits: str
    """Average bits a weight."""
    width: int = 0
    """Bits of a quantized weight, without its share of the scales; 0 if none are quantized."""
    group_size: int = 0
    """Weights that share a scale. A layer whose width is no multiple of it stays as it is."""
    mode: str = "affine"
    """How a weight is made of its bits and the scales."""
    recipe: str = ""
    """Which layers get more bits than `width`; empty: none."""
    dtype: str = ""
    """The type that all weights are cast to; empty: they keep theirs where they are not quantized."""

    @property
    def calibrated(self) -> bool:
        """Whether calibration text goes into it: into none of these."""
        return False


DEFAULT_SCHEME = "4bit"

SCHEMES = {
    "2bit": MlxScheme("2.5", 2, 64),
    "mixed_2_6": MlxScheme("3.2631", 2, 64, recipe="mixed_2_6"),
    "3bit": MlxScheme("3.5", 3, 64),
    "mixed_3_4": MlxScheme("3.6908", 3, 64, recipe="mixed_3_4"),
    "mixed_3_6": MlxScheme("4.0723", 3, 64, recipe="mixed_3_6"),
    "4bit-gs128": MlxScheme("4.25", 4, 128),
    "mxfp4": MlxScheme("4.25", 4, 32, mode="mxfp4"),
    "4bit": MlxScheme("4.5", 4, 64),
    "nvfp4": MlxScheme("4.5", 4, 16, mode="nvfp4"),
    "mixed_4_6": MlxScheme("4.8816", 4, 64, recipe="mixed_4_6"),
    "4bit-gs32": MlxScheme("5.0", 4, 32),
    "5bit": MlxScheme("5.5", 5, 64),
    "6bit": MlxScheme("6.5", 6, 64),
    "8bit-gs128": MlxScheme("8.25", 8, 128),
    "mxfp8": MlxScheme("8.25", 8, 32, mode="mxfp8"),
    "8bit": MlxScheme("8.5", 8, 64),
    "8bit-gs32": MlxScheme("9.0", 8, 32),
    "F16": MlxScheme("16.0", dtype="float16"),
    "BF16": MlxScheme("16.0", dtype="bfloat16"),
}
"""By size. Left out are mlx-lm's learned ones (DWQ, AWQ, GPTQ): they train against the unquantized model, which without
a GPU takes days.
"""


def runtime_schemes() -> list[Scheme]:
    """The schemes as an EdgeRuntime lists them."""
    return [Scheme(name=name, bits_per_weight=scheme.bits) for name, scheme in SCHEMES.items()]
