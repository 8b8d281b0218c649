"""Models as `transformers` keeps them: config.json, tokenizer, safetensors. Read offline; code of theirs never runs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemodel.api.artifact import ResolvedSource
from edgemodel.core.sizing import BATCH_TOKENS, HELD_OUT_TOKENS
from edgemodel.pipeline import texts
from edgemodel.pipeline.embeddings import calibration_passages
from edgemodel.pipeline.errors import QuantizationFailedError, SourceUnsupportedError, UnsupportedArchitectureError
from edgemodel.pipeline.quality import windows

TOKENIZER = "tokenizer.json"
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
"""For programs that would otherwise ask a hub."""


@dataclass(frozen=True)
class Pretrained:
    """A model's folder."""

    folder: Path
    config: dict[str, Any]

    @classmethod
    def read(cls, folder: Path, resolved: ResolvedSource) -> "Pretrained":
        """The model in a source's folder. `SourceUnsupportedError` if it is a GGUF file."""
        if resolved.format != "safetensors":
            raise SourceUnsupportedError(
                f"this toolchain reads safetensors, not {resolved.format}: name the model's safetensors repository"
            )
        return cls.at(folder)

    @classmethod
    def at(cls, folder: Path) -> "Pretrained":
        """The model in a folder."""
        return cls(folder, json.loads((folder / "config.json").read_text()))

    @property
    def context_length(self) -> int:
        """The context that it was trained for; 0 if it does not say."""
        return int(self.config.get("max_position_embeddings") or 0)

    def tokenizer(self) -> Any:
        """Its tokenizer, of `transformers`."""
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)
        except (ValueError, OSError, KeyError) as error:
            raise UnsupportedArchitectureError(
                f"transformers cannot read the model's tokenizer ({type(error).__name__}): use another model"
            ) from None

    def load(self, kind: Any, **options: Any) -> Any:
        """The model itself, by this class of `transformers`. Refuses a source that lacks weights: they would be made
        up. A pooler's are for another task."""
        model, found = kind.from_pretrained(
            self.folder, local_files_only=True, trust_remote_code=False, output_loading_info=True, **options
        )
        if missing := sorted(name for name in found["missing_keys"] if not name.startswith("pooler.")):
            raise QuantizationFailedError(
                f"the source lacks weights that its config.json asks for, such as {missing[0]} ({len(missing)} in all)"
            )
        return model

    def load_encoder(self) -> Any:
        """A model that embeds, in floats, by operations that ONNX has."""
        import torch
        from transformers import AutoModel

        return self.load(AutoModel, dtype=torch.float32, attn_implementation="eager")

    def calibration_passages(self) -> list[list[int]]:
        """The calibration text as a model that embeds reads it, passage by passage."""
        longest = min(self.context_length or BATCH_TOKENS, BATCH_TOKENS)
        tokenizer = self.tokenizer()
        return [tokenizer(passage, verbose=False)["input_ids"][:longest] for passage in calibration_passages()]

    def held_out_windows(self) -> list[list[int]]:
        """The held-out text as this model reads it."""
        return self._windows(texts.held_out_text(), HELD_OUT_TOKENS)

    def calibration_windows(self, tokens: int) -> list[list[int]]:
        """About so many tokens of the calibration text."""
        return self._windows(texts.calibration_text(), tokens)

    def _windows(self, text: bytes, at_most: int) -> list[list[int]]:
        tokenizer = self.tokenizer()
        ids: Sequence[int] = tokenizer(text.decode(), add_special_tokens=False, verbose=False)["input_ids"]
        adds_bos = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
        return windows(ids, self.context_length, tokenizer.bos_token_id if adds_bos else None, at_most)


def refuse_without_tokenizer(folder: Path) -> None:
    """Refuses a model without the tokenizer's file that our engines read, also if `transformers` was to make it."""
    if not (folder / TOKENIZER).exists():
        raise UnsupportedArchitectureError(f"the model's tokenizer is of a kind that has no {TOKENIZER}: use another")
