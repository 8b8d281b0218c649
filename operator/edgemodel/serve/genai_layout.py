"""What engines have in common that serve a folder in the layout of onnxruntime-genai: https://onnxruntime.ai/docs/genai

The tokenizer is the one that the model was trained with: onnxruntime-genai's own splits some texts otherwise, and ends
the process where there is nothing to decode. `jinja2` fills in the chat template as `transformers` does.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edgemodel.serve.engine import EngineSettings, ModelRefusedError, NoChatTemplateError
from edgemodel.serve.tokenizer import ArtifactTokenizer

PROMPT_TOKENS = 128
"""Tokens of a prompt that are read at a time: what other requests wait for, and what logits are held of at once."""


class GenAiLayout:
    """The model's texts, and what its configuration says. Raises what comes of a folder that has another layout."""

    def __init__(self, folder: Path) -> None:
        config: dict[str, Any] = json.loads((folder / "genai_config.json").read_text())
        self.model: dict[str, Any] = config["model"]
        self.search: dict[str, Any] = config["search"]
        ends = self.model["eos_token_id"]
        self.ends = frozenset(ends if isinstance(ends, list) else [ends])
        """Tokens that end an answer."""
        self._tokenizer = ArtifactTokenizer(folder)
        self._template = _ChatTemplate(folder)
        self.vocabulary = self._tokenizer.vocabulary

    def check(self, settings: EngineSettings) -> None:
        """`ModelRefusedError` if the model can't be served so."""
        context = self.model["context_length"]
        if settings.context_length > context:
            raise ModelRefusedError(f"the model's context is {context} tokens: {settings.context_length} are too many")

    def chat_prompt(self, messages: Sequence[Mapping[str, str]]) -> str:
        """A conversation in the words of the model's chat template."""
        return self._template.render(messages)

    def encode(self, text: str, special: bool) -> list[int]:
        """Token ids."""
        return self._tokenizer.encode(text, special)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids."""
        return self._tokenizer.decode(ids)


class _ChatTemplate:
    """What the artifact says about how to put a conversation."""

    def __init__(self, folder: Path) -> None:
        path = folder / "chat_template.jinja"
        self._text = path.read_text() if path.exists() else None
        config = json.loads((folder / "tokenizer_config.json").read_text())
        tokens = {name: config[name] for name in ("bos_token", "eos_token", "pad_token", "unk_token") if name in config}
        self._tokens = {name: token["content"] if isinstance(token, dict) else token for name, token in tokens.items()}
        self._environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        self._environment.filters["tojson"] = _to_json
        self._environment.globals |= {"raise_exception": _refuse, "strftime_now": _now}

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        if self._text is None:
            raise NoChatTemplateError("the model has no chat template")
        try:
            template = self._environment.from_string(self._text)
            text: str = template.render(messages=messages, add_generation_prompt=True, **self._tokens)
        except TemplateError as error:
            raise NoChatTemplateError(f"the model's chat template does not take this: {error}") from None
        return text


def _to_json(value: Any, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, **options)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _refuse(message: str) -> None:
    raise TemplateError(message)
