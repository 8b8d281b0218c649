"""Makes one scheme of a model, in the step `convert`.

Lazily: weights are read, cast and quantized while they are written, file by file. Only data comes out: no code of the
model's, and no mention of any.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map_with_path
from mlx_lm.convert import mixed_quant_predicate_builder
from mlx_lm.utils import load_config, load_model, quantize_model, save_config, save_model

from edgemodel.pipeline.errors import QuantizationFailedError, SourceUnsupportedError, UnsupportedArchitectureError
from edgemodel.pipeline.mlx_schemes import SCHEMES, MlxScheme
from edgemodel.pipeline.pretrained import Pretrained

WEIGHTS = "model*.safetensors"
"""What mlx-lm loads of a folder."""

TOKENIZER = (
    "tokenizer*", "*.model", "*.tiktoken", "*.jinja", "vocab.*", "merges.txt", "added_tokens.json",
    "special_tokens_map.json", "chat_template.json", "generation_config.json",
)  # fmt: skip
"""What is taken over as it is: how the model reads, speaks and ends."""

CODE = "auto_map"
"""The entry of a configuration that names the model's own code."""


def convert(source: str, target: str, scheme_name: str) -> None:
    """Writes the model in the folder `source` to the folder `target` in the scheme."""
    given, made, scheme = Path(source), Path(target), SCHEMES[scheme_name]
    model, config = _load(given)
    if scheme.dtype:
        _cast(model, scheme.dtype)
        config.update({key: scheme.dtype for key in ("dtype", "torch_dtype") if key in config})
    if scheme.width:
        config = _quantize(model, config, scheme)
    config.pop(CODE, None)
    save_model(made, model, donate_model=True)
    save_config(config, made / "config.json")
    _copy_tokenizer(given, made)


def _load(source: Path) -> tuple[Any, dict[str, Any]]:
    """A model of unquantized weights, and its configuration."""
    config = load_config(source)
    if "model_file" in config:
        raise UnsupportedArchitectureError("the model is code of its own, which is never run: use another model")
    if not any(source.glob(WEIGHTS)):
        raise SourceUnsupportedError(f"mlx-lm reads {WEIGHTS}, and the source has none: name another copy of the model")
    Pretrained(source, config).tokenizer()
    model, config = load_model(source, lazy=True)
    # What is left of a quantized model of FP8 is a note: mlx-lm has made 16 bits of its weights.
    method = (config.pop("quantization_config", None) or {}).get("quant_method")
    if "quantization" in config or method not in (None, "fp8"):
        raise SourceUnsupportedError("the model is quantized already: name its unquantized repository")
    return model, config


def _cast(model: Any, dtype: str) -> None:
    """Casts the weights, but those that the model wants as they are."""
    wants_cast = getattr(model, "cast_predicate", lambda _: True)

    def cast(path: str, weight: mx.array) -> mx.array:
        casts = wants_cast(path) and mx.issubdtype(weight.dtype, mx.floating)
        return weight.astype(getattr(mx, dtype)) if casts else weight

    model.update(tree_map_with_path(cast, model.parameters()))


def _quantize(model: Any, config: dict[str, Any], scheme: MlxScheme) -> dict[str, Any]:
    """Quantizes the weights. Returns the configuration that says so."""
    predicate = None
    if scheme.recipe:
        try:
            predicate = mixed_quant_predicate_builder(scheme.recipe, model, scheme.group_size)
        except ValueError:
            raise QuantizationFailedError(
                f"the model has not the layers that {scheme.recipe} tells apart: use a scheme of equal bits"
            ) from None
    quantized: dict[str, Any]
    model, quantized = quantize_model(
        model, config, scheme.group_size, scheme.width, scheme.mode, quant_predicate=predicate
    )
    if not any("scales" in module for _, module in model.named_modules()):
        raise QuantizationFailedError(
            f"no layer's width is a multiple of {scheme.group_size}: use a scheme of smaller groups"
        )
    return quantized


def _copy_tokenizer(source: Path, target: Path) -> None:
    for file in {file for pattern in TOKENIZER for file in source.glob(pattern) if file.is_file()}:
        if file.name == "tokenizer_config.json":
            config = json.loads(file.read_text())
            config.pop(CODE, None)
            (target / file.name).write_text(json.dumps(config, indent=2, ensure_ascii=False))
        else:
            shutil.copyfile(file, target / file.name)
