"""A model's texts, by what its maker published with it: the tokenizer that it was trained with, and its chat template.

For engines whose own tokenizer splits some texts otherwise, takes long, or ends the process where there is nothing to
decode. `tokenizers` reads `tokenizer.json` (https://huggingface.co/docs/tokenizers); `jinja2` fills in the template as
`transformers` does.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from edgemodel.serve.engine import EngineSettings, ModelRefusedError, NoChatTemplateError


class ArtifactTexts:
    """The texts of the model in a folder. They are read at once, or when they are wanted if that may wait."""

    def __init__(self, settings: EngineSettings, may_wait: bool = False) -> None:
        self._folder = settings.model_dir
        if not may_wait:
            self.encode("", special=False)

    @property
    def vocabulary(self) -> int:
        """How many tokens there are: every id is below."""
        size: int = self._files[0].get_vocab_size()
        return size

    def chat_prompt(self, messages: Sequence[Mapping[str, str]]) -> str:
        """A conversation in the words of the model's chat template."""
        return self._files[1].render(messages)

    def encode(self, text: str, special: bool) -> list[int]:
        """Token ids; with those that the tokenizer adds to a bare text if `special`."""
        ids: list[int] = self._files[0].encode(text, add_special_tokens=special).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, without special tokens."""
        text: str = self._files[0].decode(list(ids), skip_special_tokens=True)
        return text

    @cached_property
    def _files(self) -> tuple[Tokenizer, "_ChatTemplate"]:
        try:
            return Tokenizer.from_file(str(self._folder / "tokenizer.json")), _ChatTemplate(self._folder)
        except Exception as error:  # of `tokenizers`, it is a bare one
            raise ModelRefusedError(f"the tokenizer cannot be loaded ({error}): make the artifact anew") from None


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
