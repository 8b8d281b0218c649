"""A stand-in for an engine that computes under the interpreter's lock. It counts up from a prompt's last token."""

import ctypes
import os
import signal
from collections.abc import Mapping, Sequence

from edgemodel.serve.engine import EngineSettings, ModelRefusedError, Output, Sampling, Token

_STEP_MICROSECONDS = 20_000
# Called through `PyDLL`, they keep the lock.
_libc = ctypes.PyDLL(None)


class LockingTexts:
    """Tokens are characters."""

    vocabulary = 1000

    def __init__(self, settings: EngineSettings) -> None:
        pass

    def chat_prompt(self, messages: Sequence[Mapping[str, str]]) -> str:
        return "".join(message["content"] for message in messages)

    def encode(self, text: str, special: bool) -> list[int]:
        return [ord(character) for character in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))


class LockingEngine(LockingTexts):
    """A text engine."""

    ends_at = 666
    """The token over which the process ends."""
    waits_at = 777
    """The token at which it waits for somebody to write to a fifo in the model's folder."""
    fifo = "fifo"

    def __init__(self, settings: EngineSettings) -> None:
        if settings.context_length > 64:
            raise ModelRefusedError(f"too long: {settings.context_length}")
        self._requests: dict[int, tuple[int, int]] = {}
        self._folder = settings.model_dir

    def add(self, request: int, prompt: Sequence[int], sampling: Sampling) -> None:
        self._requests[request] = prompt[-1], sampling.max_tokens

    def step(self) -> list[Output]:
        _libc.usleep(_STEP_MICROSECONDS)
        outputs = []
        for request, (last, left) in self._requests.items():
            if last == self.ends_at:
                os.kill(os.getpid(), signal.SIGKILL)
            if last == self.waits_at:
                _libc.open(bytes(self._folder / self.fifo), os.O_RDONLY)
            self._requests[request] = last + 1, left - 1
            outputs.append(Output(request, (Token(last + 1),), None if left > 1 else "length"))
        for output in outputs:
            if output.finish:
                del self._requests[output.request]
        return outputs

    def cancel(self, request: int) -> None:
        self._requests.pop(request, None)

    def close(self) -> None:
        pass
