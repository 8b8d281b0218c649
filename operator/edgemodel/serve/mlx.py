"""MLX: mlx-lm's batch generator, turned step by step. On a Mac on its GPU; elsewhere on the CPU, to try things."""

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.generate import BatchGenerator
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.sample_utils import greedy_sampler
from mlx_lm.utils import load

from edgemodel.serve.engine import EngineSettings, ModelRefusedError, NoChatTemplateError, Output, Sampling, Token

PREFILL_TOKENS = 512
"""Tokens of a prompt that a step takes: others get their next token, or can be cancelled, only after them."""


class MlxEngine:
    """A text engine. MLX computes a batch on one thread; there is nothing to set."""

    def __init__(self, settings: EngineSettings) -> None:
        device = mx.Device(getattr(mx, settings.device)) if settings.device else mx.default_device()
        if device == mx.cpu:
            # Where it finds a compiler it would stop for it, and load code from a folder that others can write to.
            mx.disable_compile()
        mx.set_default_device(device)
        try:
            model, self._tokenizer = _load(settings.model_dir)
        except ModelRefusedError:
            mx.clear_streams()
            raise
        self.vocabulary = len(self._tokenizer.get_vocab())
        self._stream = mx.new_stream(device)
        self._generator = BatchGenerator(
            _In32Bits(model),
            stop_tokens=[[token] for token in self._tokenizer.eos_token_ids],
            completion_batch_size=settings.parallel,
            prefill_batch_size=settings.parallel,
            prefill_step_size=PREFILL_TOKENS,
            stream=self._stream,
        )
        self._uids: dict[int, int] = {}
        """Request -> the generator's number for it."""
        self._requests: dict[int, tuple[int, bool]] = {}
        """The generator's number -> request, and whether it wants log-probabilities."""

    def chat_prompt(self, messages: Sequence[Mapping[str, str]]) -> str:
        """A conversation in the words of the model's chat template."""
        if not self._tokenizer.has_chat_template:
            raise NoChatTemplateError("the model has no chat template")
        prompt: str = self._tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
        )
        return prompt

    def encode(self, text: str, special: bool) -> list[int]:
        """Token ids of a text."""
        return list(self._tokenizer.encode(text, add_special_tokens=special))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def add(self, request: int, prompt: Sequence[int], sampling: Sampling) -> None:
        """Takes in a request."""
        sampler = _Sampler(sampling) if sampling.temperature > 0 else greedy_sampler
        (uid,) = self._generator.insert([list(prompt)], [sampling.max_tokens], samplers=[sampler])
        self._uids[request] = uid
        self._requests[uid] = request, sampling.logprobs

    def step(self) -> list[Output]:
        """Takes a piece of the prompts that are new, and brings each of the others a token."""
        _, responses = self._generator.next()
        return [self._output(response) for response in responses]

    def cancel(self, request: int) -> None:
        """Drops a request, if it is there."""
        uid = self._uids.pop(request, None)
        if uid is not None:
            del self._requests[uid]
            with mx.stream(self._stream):
                self._generator.remove([uid])

    def close(self) -> None:
        """Gives back memory and threads: one of MLX's that outlives its maker can crash the process at its end."""
        self._generator.close()
        del self._generator
        mx.clear_streams()
        mx.clear_cache()

    def _output(self, response: Any) -> Output:
        request, logprobs = self._requests[response.uid]
        if response.finish_reason:
            del self._requests[response.uid], self._uids[request]
        if response.finish_reason == "stop":
            return Output(request, (), "stop")
        logprob = float(response.logprobs[response.token].item()) if logprobs else None
        return Output(request, (Token(response.token, logprob),), response.finish_reason)


def _load(folder: Path) -> tuple[Any, Any]:
    """The model in a folder, and its tokenizer."""
    try:
        model, tokenizer = load(str(folder), tokenizer_config={"trust_remote_code": False})
    except (ValueError, TypeError, KeyError, AttributeError, OSError, RuntimeError) as error:
        raise ModelRefusedError(
            f"mlx-lm cannot load the model ({type(error).__name__}): make its artifact anew, or use another model"
        ) from error
    if not all(hasattr(cache, "merge") for cache in make_prompt_cache(model)):
        raise ModelRefusedError("mlx-lm cannot batch this kind of model: use another model")
    return model, tokenizer


class _In32Bits:
    """A model whose logits have 32 bits: differences of probabilities are lost in 16."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, tokens: mx.array, cache: list[Any]) -> mx.array:
        return self._model(tokens, cache=cache).astype(mx.float32)

    def make_cache(self) -> list[Any]:
        """What mlx-lm asks a model for, if it has it."""
        caches: list[Any] = make_prompt_cache(self._model)
        return caches


class _Sampler:
    """Draws the tokens of one request, from randomness of its own: MLX's is one for all that it computes."""

    def __init__(self, sampling: Sampling) -> None:
        seed = secrets.randbits(64) if sampling.seed is None else sampling.seed % 2**64
        self._key = mx.random.key(seed)
        self._sampling = sampling

    def __call__(self, logprobs: mx.array) -> mx.array:
        logits = logprobs / self._sampling.temperature
        if self._sampling.top_p < 1:
            logits = _most_likely(logits, self._sampling.top_p)
        self._key, key = mx.random.split(self._key)
        return mx.random.categorical(logits, key=key)


def _most_likely(logits: mx.array, share: float) -> mx.array:
    """The logits of the most likely tokens that have this share of the probability together; the others' impossible."""
    probabilities = mx.softmax(logits, axis=-1)
    falling = mx.sort(probabilities, axis=-1)[..., ::-1]
    before = mx.cumsum(falling, axis=-1) - falling
    least = mx.where(before < share, falling, 1.0).min(axis=-1, keepdims=True)
    return mx.where(probabilities < least, -mx.inf, logits)
