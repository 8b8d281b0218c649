"""onnxruntime-genai behind the front: a generator for each request, turned one after the other.

It reads any model in its own layout, on any device that it knows. Its own batching (`Engine`) lets no request in before
those that run are answered, and knows no log-probabilities: what can be batched is for `onnxruntime_batch`.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime_genai as og

from edgemodel.serve.engine import EngineSettings, ModelRefusedError, Output, Sampling, Token
from edgemodel.serve.genai_layout import PROMPT_TOKENS, GenAiLayout
from edgemodel.serve.sampler import logprob

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
        logits = self._generator.get_logits().ravel() if self._logprobs else None
        self._generator.generate_next_token()
        token = int(self._generator.get_next_tokens()[0])
        if token in ends:
            return Output(number, (), "stop")
        self._left -= 1
        found = Token(token, None if logits is None else logprob(logits, token))
        return Output(number, (found,), None if self._left else "length")


class OnnxRuntimeGenAiEngine(GenAiLayout):
    """A text engine."""

    def __init__(self, settings: EngineSettings) -> None:
        options = {"model": {"decoder": {"session_options": {"intra_op_num_threads": settings.threads}}}}
        try:
            super().__init__(settings)
            config = og.Config(str(settings.model_dir))
            config.overlay(json.dumps(options))
            if settings.device:
                config.clear_providers()
                config.append_provider(settings.device)
            self._model = og.Model(config)
        except ModelRefusedError:
            raise
        except Exception as error:
            raise ModelRefusedError(
                f"onnxruntime-genai cannot load the model ({error}): make the artifact anew, or use another device"
            ) from None
        self._requests: dict[int, _Active] = {}

    def add(self, request: int, prompt: Sequence[int], sampling: Sampling) -> None:
        """Takes in a request."""
        self._requests[request] = _Active(self._model, prompt, sampling)

    def step(self) -> list[Output]:
        """Brings each request a token, or further in its prompt."""
        outputs = [active.next(number, self.ends) for number, active in self._requests.items() if active.read()]
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


def _search(sampling: Sampling) -> dict[str, Any]:
    if sampling.temperature == 0:
        return {"do_sample": False}
    found = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    if sampling.seed is not None:
        found["random_seed"] = sampling.seed % _LARGEST_SEED
    return found
