"""onnxruntime-genai behind the front: a generator for each request, turned one after the other.

Its own batching (`Engine`) lets no request in before those that run are answered, and knows no log-probabilities. Its
own tokenizer splits some texts otherwise than the one that the model was trained with, and ends the process where there
is nothing to decode. `jinja2` fills in the chat template as `transformers` does.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as og
from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from numpy.typing import NDArray

from edgemodel.serve.engine import EngineSettings, ModelRefusedError, NoChatTemplateError, Output, Sampling, Token
from edgemodel.serve.tokenizer import ArtifactTokenizer

PROMPT_TOKENS = 128
"""Tokens of a prompt that are read in a step: what other requests wait for, and what logits are held of at once."""

_LARGEST_SEED = 2**31


class _Active:
    """A request that is in."""

    def __init__(self, model: og.Model, prompt: Sequence[int], sampling: Sampling) -> None:
        parameters = og.GeneratorParams(model)
        parameters.set_search_options(max_length=len(prompt) + sampling.max_tokens, **_search(sampling))
        self._generator = og.Generator(model, parameters)
        self._unread = np.asarray(prompt, np.int32)
        self._left = sampling.max_tokens
        self._logprobs = sampling.logprobs

    def read(self) -> bool:
        """Reads on in the prompt. Whether it has been read."""
        if len(self._unread):
            self._generator.append_tokens(self._unread[:PROMPT_TOKENS])
            self._unread = self._unread[PROMPT_TOKENS:]
        return not len(self._unread)

    def next(self, number: int, ends: frozenset[int]) -> Output:
        """The next token."""
        logits = self._generator.get_logits().ravel().astype(np.float64) if self._logprobs else None
        self._generator.generate_next_token()
        token = int(self._generator.get_next_tokens()[0])
        if token in ends:
            return Output(number, (), "stop")
        self._left -= 1
        found = Token(token, None if logits is None else _logprob(logits, token))
        return Output(number, (found,), None if self._left else "length")


class OnnxRuntimeGenAiEngine:
    """Serves a folder in the layout of onnxruntime-genai."""

    def __init__(self, settings: EngineSettings) -> None:
        folder = settings.model_dir
        options = {"model": {"decoder": {"session_options": {"intra_op_num_threads": settings.threads}}}}
        try:
            config = og.Config(str(folder))
            config.overlay(json.dumps(options))
            if settings.device:
                config.clear_providers()
                config.append_provider(settings.device)
            self._model = og.Model(config)
            self._tokenizer = ArtifactTokenizer(folder)
        except Exception as error:
            raise ModelRefusedError(
                f"onnxruntime-genai cannot load the model ({error}): make the artifact anew, or use another device"
            ) from None
        said = json.loads((folder / "genai_config.json").read_text())["model"]
        context = said["context_length"]
        if settings.context_length > context:
            raise ModelRefusedError(f"the model's context is {context} tokens: {settings.context_length} are too many")
        ends = said["eos_token_id"]
        self._ends = frozenset(ends if isinstance(ends, list) else [ends])
        self._template = _ChatTemplate(folder)
        self._requests: dict[int, _Active] = {}

    def chat_prompt(self, messages: Sequence[Mapping[str, str]]) -> str:
        """A conversation in the words of the model's chat template."""
        return self._template.render(messages)

    def encode(self, text: str, special: bool) -> list[int]:
        """Token ids."""
        return self._tokenizer.encode(text, special)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids."""
        return self._tokenizer.decode(ids)

    def add(self, request: int, prompt: Sequence[int], sampling: Sampling) -> None:
        """Takes in a request."""
        self._requests[request] = _Active(self._model, prompt, sampling)

    def step(self) -> list[Output]:
        """Brings each request a token, or further in its prompt."""
        outputs = [active.next(number, self._ends) for number, active in self._requests.items() if active.read()]
        for output in outputs:
            if output.finish:
                del self._requests[output.request]
        return outputs

    def cancel(self, request: int) -> None:
        """Drops a request."""
        self._requests.pop(request, None)

    def close(self) -> None:
        """Gives back what it holds: onnxruntime-genai does so when nobody refers to it any more."""
        self._requests.clear()
        del self._model


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


def _search(sampling: Sampling) -> dict[str, Any]:
    if sampling.temperature == 0:
        return {"do_sample": False}
    found = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    if sampling.seed is not None:
        found["random_seed"] = sampling.seed % _LARGEST_SEED
    return found


def _logprob(logits: NDArray[np.float64], token: int) -> float:
    top = logits.max()
    return float(logits[token] - top - np.log(np.exp(logits - top).sum()))


def _to_json(value: Any, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, **options)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _refuse(message: str) -> None:
    raise TemplateError(message)
