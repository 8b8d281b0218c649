"""Serves the artifacts, behind EdgeModel's front."""

from collections.abc import Mapping, Sequence

import numpy as np
from sentencepiece import SentencePieceProcessor

from edgemodel.serve.engine import EngineSettings, NoChatTemplateError, Output, Sampling
from edgemodel.serve.sampler import Sampler
from numpy_runtime.llama import Cache, Llama


class _Request:
    """A request that is in: what it has still to read, and what it has read."""

    def __init__(self, prompt: Sequence[int], sampling: Sampling) -> None:
        self.unread = list(prompt)
        self.sampler = Sampler(sampling)
        self.left = sampling.max_tokens
        self.cache: Cache = {}


class NumpyEngine:
    """What EdgeModel's front turns."""

    def __init__(self, settings: EngineSettings) -> None:
        self._model = Llama(settings.model_dir)
        self._tokenizer = SentencePieceProcessor(model_file=str(settings.model_dir / "tokenizer.model"))
        self.vocabulary: int = self._tokenizer.vocab_size()
        self._requests: dict[int, _Request] = {}

    def chat_prompt(self, messages: Sequence[Mapping[str, str]]) -> str:
        """There is none."""
        raise NoChatTemplateError("this runtime knows no chat template")

    def encode(self, text: str, special: bool) -> list[int]:
        """Token ids."""
        ids: list[int] = self._tokenizer.encode(text, add_bos=special)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids."""
        text: str = self._tokenizer.decode(list(ids))
        return text

    def add(self, request: int, prompt: Sequence[int], sampling: Sampling) -> None:
        """Takes in a request."""
        self._requests[request] = _Request(prompt, sampling)

    def step(self) -> list[Output]:
        """Brings each request a token."""
        outputs = [self._next(number, request) for number, request in self._requests.items()]
        for output in outputs:
            if output.finish:
                del self._requests[output.request]
        return outputs

    def _next(self, number: int, request: _Request) -> Output:
        logits = self._model.logits(np.asarray(request.unread), request.cache)[-1]
        token = request.sampler.draw(logits)
        if token.id == self._tokenizer.eos_id():
            return Output(number, (), "stop")
        request.unread = [token.id]
        request.left -= 1
        return Output(number, (token,), None if request.left else "length")

    def cancel(self, request: int) -> None:
        """Drops a request."""
        self._requests.pop(request, None)

    def close(self) -> None:
        """There is nothing to give back."""
