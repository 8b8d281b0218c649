"""The quantization schemes of ONNX Runtime, as data: what Olive does to a model for each of them.

All give a model that onnxruntime-genai serves. `bits` are for Llama 3.1 8B, whole file, counted from the block formats:
on a CPU the scale of a block is a float32. A table of embeddings that is the output layer too is stored twice, once for
each use: a small model with a large vocabulary is larger than they say.
"""

from typing import Any, NamedTuple

from edgemodel.api.base import Task
from edgemodel.api.runtime import Scheme

OlivePass = dict[str, Any]
"""A pass of Olive: its `type`, and its options."""


def _build(precision: str, **options: Any) -> OlivePass:
    """From the source to ONNX by onnxruntime-genai's model builder, which runs code out of the source unless told."""
    return {"type": "ModelBuilder", "precision": precision, "extra_options": {"hf_remote": False}, **options}


_EXTERNAL = {"save_as_external_data": True}

EMBEDDING_TABLES = ["/model/embed_tokens/Gather", "/model/embed_tokens/Gather_1", "/model/embed_tokens/Gather_2"]
"""The nodes that look tokens up: as the builder calls the one that it makes, and a model that embeds has them of
positions and segments too."""

_EMBEDDINGS: OlivePass = {
    "type": "OnnxBlockWiseRtnQuantization",
    "bits": 8,
    "block_size": 32,
    "nodes_to_include": EMBEDDING_TABLES[:1],
    **_EXTERNAL,
}
"""The builder leaves embeddings at 32 bits, which for a small model is half of the file."""

CALIBRATION_WINDOWS = "calibration_windows"
"""The data set that passes which calibrate read: see `onnx_olive`."""

_CALIBRATION = {
    "name": "calibration",
    "load_dataset_config": {"type": CALIBRATION_WINDOWS},
    "pre_process_data_config": {"type": "skip_pre_process"},
}

_FOUR_BITS: OlivePass = {"bits": 4, "block_size": 32, "accuracy_level": 4}

_INTEGERS: OlivePass = {
    "precision": "int8",
    "per_channel": True,
    "op_types_to_quantize": ["MatMul", "Gather"],
    "quant_preprocess": False,
    **_EXTERNAL,
}


class OnnxScheme(NamedTuple):
    """A scheme as Olive makes it."""

    passes: tuple[OlivePass, ...]
    """Applied one after the other: to the source, or to the unquantized ONNX model if the first is a pass over ONNX."""
    bits: str
    """Average bits a weight."""
    calibrated: bool = False
    """Whether calibration text goes into it."""
    embedding_passes: tuple[OlivePass, ...] | None = None
    """Those for a model that embeds, if they are others: applied to the unquantized ONNX model."""

    def passes_for(self, task: Task) -> tuple[OlivePass, ...] | None:
        """The passes for a model of the task; None if there are none that could make it."""
        if task == "TextGeneration":
            return self.passes
        if self.embedding_passes is not None:
            return self.embedding_passes
        return self.passes if all(each["type"].startswith("Onnx") for each in self.passes) else None


DEFAULT_SCHEME = "INT4_K_QUANT"

UNQUANTIZED = _build("fp32")
"""What every scheme is measured against. A CPU has no arithmetic for FP16: ONNX Runtime would only convert it."""

SCHEMES = {
    "INT4": OnnxScheme(
        (_build("int4"), _EMBEDDINGS),
        "5.26",
        embedding_passes=(
            {"type": "OnnxBlockWiseRtnQuantization", **_FOUR_BITS, "nodes_to_exclude": EMBEDDING_TABLES, **_EXTERNAL},
            _EMBEDDINGS,
        ),
    ),
    "INT4_GPTQ": OnnxScheme(
        (
            {"type": "Gptq", "bits": 4, "group_size": 32, "lm_head": True, "data_config": _CALIBRATION},
            _build("int4"),
            _EMBEDDINGS,
        ),
        "5.38",
        calibrated=True,
    ),
    "INT4_K_QUANT": OnnxScheme(
        (_build("int4", int4_algo_config="k_quant"), _EMBEDDINGS),
        "5.65",
        embedding_passes=({"type": "OnnxKQuantQuantization", **_FOUR_BITS, **_EXTERNAL}, _EMBEDDINGS),
    ),
    "INT4_K_QUANT_MIXED": OnnxScheme((_build("int4", int4_algo_config="k_quant_mixed"), _EMBEDDINGS), "6.34"),
    "INT8_DYNAMIC": OnnxScheme(({"type": "OnnxDynamicQuantization", **_INTEGERS},), "8.02"),
    "INT8_STATIC": OnnxScheme(
        (
            {
                "type": "OnnxStaticQuantization",
                "activation_type": "uint8",
                "data_config": _CALIBRATION,
                **_INTEGERS,
            },
        ),
        "8.02",
        calibrated=True,
    ),
    "INT8": OnnxScheme(
        (
            {"type": "OnnxKQuantQuantization", "bits": 8, "block_size": 128, "accuracy_level": 4, **_EXTERNAL},
            _EMBEDDINGS,
        ),
        "8.36",
    ),
    "FP32": OnnxScheme((), "32.0"),
}
"""By size. INT4: blocks of 32, rounded to nearest. INT4_K_QUANT: blocks with the least error, the output layer at 8
bits; MIXED: half of the layers at 8 bits where it matters most. INT8: blocks of 128, weights only. INT8_DYNAMIC and
INT8_STATIC: activations too, in ranges that are found while it runs, or on the calibration text. Left out is Olive's
HQQ, whose models talk nonsense, and AWQ, which needs a GPU.
"""


def runtime_schemes() -> list[Scheme]:
    """The schemes as an EdgeRuntime lists them."""
    return [
        Scheme(
            name=name,
            bits_per_weight=scheme.bits,
            calibrated=scheme.calibrated,
            tasks=[] if scheme.passes_for("Embeddings") is not None else ["TextGeneration"],
        )
        for name, scheme in SCHEMES.items()
    ]
