"""OpenAI's answers: the JSON of a whole one, and of the pieces of a streamed one."""

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from edgemodel.serve.engine import Token

Json = dict[str, Any]


@dataclass
class Piece:
    """What came next."""

    text: str
    tokens: Sequence[Token]
    finish: str | None = None


class Reply(Protocol):
    """How an endpoint words what the engine says."""

    with_logprobs: bool
    """Whether the client wants the log-probability of each token."""

    def opening(self) -> list[Json]:
        """What a stream begins with."""

    def chunk(self, piece: Piece) -> Json:
        """A piece of a stream."""

    def whole(self, pieces: Sequence[Piece]) -> Json:
        """All pieces in one answer, without its usage."""


@dataclass
class _Envelope:
    """What all answers share."""

    model: str
    word: Callable[[int], str]
    """The text of one token."""
    with_logprobs: bool
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def _envelope(self, kind: str, prefix: str, choice: Json) -> Json:
        choices = [{"index": 0} | choice]
        return {
            "id": f"{prefix}-{self.id}", "object": kind, "created": self.created, "model": self.model,
            "choices": choices,
        }  # fmt: skip


class ChatReply(_Envelope):
    """POST /v1/chat/completions."""

    def opening(self) -> list[Json]:
        """Says who speaks."""
        return [self._chunk({"role": "assistant", "content": ""}, None, None)]

    def chunk(self, piece: Piece) -> Json:
        """A piece of a stream."""
        delta = {"content": piece.text} if piece.text else {}
        return self._chunk(delta, self._logprobs(piece.tokens), piece.finish)

    def whole(self, pieces: Sequence[Piece]) -> Json:
        """All pieces in one answer."""
        tokens = [token for piece in pieces for token in piece.tokens]
        message = {"role": "assistant", "content": "".join(piece.text for piece in pieces), "refusal": None}
        choice = {"message": message, "logprobs": self._logprobs(tokens), "finish_reason": pieces[-1].finish}
        return self._envelope("chat.completion", "chatcmpl", choice)

    def _chunk(self, delta: Json, logprobs: Json | None, finish: str | None) -> Json:
        choice = {"delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return self._envelope("chat.completion.chunk", "chatcmpl", choice)

    def _logprobs(self, tokens: Sequence[Token]) -> Json | None:
        if not self.with_logprobs or any(token.logprob is None for token in tokens):
            return None
        words = [(self.word(token.id), token.logprob) for token in tokens]
        return {
            "content": [
                {"token": word, "logprob": logprob, "bytes": list(word.encode()), "top_logprobs": []}
                for word, logprob in words
            ],
            "refusal": None,
        }


class CompletionReply(_Envelope):
    """POST /v1/completions."""

    def opening(self) -> list[Json]:
        """Nothing."""
        return []

    def chunk(self, piece: Piece) -> Json:
        """A piece of a stream."""
        return self.whole([piece])

    def whole(self, pieces: Sequence[Piece]) -> Json:
        """All pieces in one answer."""
        tokens = [token for piece in pieces for token in piece.tokens]
        choice = {
            "text": "".join(piece.text for piece in pieces),
            "logprobs": self._logprobs(tokens),
            "finish_reason": pieces[-1].finish,
        }
        return self._envelope("text_completion", "cmpl", choice)

    def _logprobs(self, tokens: Sequence[Token]) -> Json | None:
        if not self.with_logprobs or any(token.logprob is None for token in tokens):
            return None
        words = [self.word(token.id) for token in tokens]
        offsets = [sum(map(len, words[:number])) for number in range(len(words))]
        return {
            "tokens": words,
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": None,
            "text_offset": offsets,
        }


def usage(prompt_tokens: int, tokens: int) -> Json:
    """What a request took."""
    return {"prompt_tokens": prompt_tokens, "completion_tokens": tokens, "total_tokens": prompt_tokens + tokens}
