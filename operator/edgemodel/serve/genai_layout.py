"""What engines have in common that serve a folder in the layout of onnxruntime-genai: https://onnxruntime.ai/docs/genai"""

import json
from typing import Any

from edgemodel.serve.artifact_texts import ArtifactTexts
from edgemodel.serve.engine import EngineSettings, ModelRefusedError

PROMPT_TOKENS = 128
"""Tokens of a prompt that are read at a time: what other requests wait for, and what logits are held of at once."""


class GenAiLayout(ArtifactTexts):
    """The model's texts, and what its configuration says. Raises what comes of a folder that has another layout."""

    def __init__(self, settings: EngineSettings) -> None:
        config: dict[str, Any] = json.loads((settings.model_dir / "genai_config.json").read_text())
        super().__init__(settings)
        self.model: dict[str, Any] = config["model"]
        self.search: dict[str, Any] = config["search"]
        ends = self.model["eos_token_id"]
        self.ends = frozenset(ends if isinstance(ends, list) else [ends])
        """Tokens that end an answer."""
        context = self.model["context_length"]
        if settings.context_length > context:
            raise ModelRefusedError(f"the model's context is {context} tokens: {settings.context_length} are too many")
