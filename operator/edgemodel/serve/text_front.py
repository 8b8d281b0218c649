"""The front of a model that generates text: chats and completions, streamed or whole."""

import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from edgemodel.serve.app import CLIENT_LEFT, ENGINE_FAILED, Front, Handler, parsed, unless_client_leaves
from edgemodel.serve.batcher import Answer, Batcher
from edgemodel.serve.engine import NoChatTemplateError, Sampling, TextEngine
from edgemodel.serve.engine_thread import EngineFailedError
from edgemodel.serve.metrics import TextMetrics
from edgemodel.serve.protocol import ApiError, ChatRequest, CompletionRequest, check_tokens
from edgemodel.serve.replies import ChatReply, CompletionReply, Piece, Reply, usage
from edgemodel.serve.text import TextStream

_log = logging.getLogger(__name__)


class TextFront(Front[TextEngine]):
    """A model that chats and completes."""

    def __init__(
        self, model: str, context_length: int, batcher: Batcher, engine_failed: Callable[[], None] = lambda: None
    ) -> None:
        self._batcher = batcher
        self._text = TextMetrics()
        super().__init__(model, context_length, batcher, self._text, engine_failed)

    def _endpoints(self) -> Mapping[str, Handler]:
        return {"/chat/completions": self._chat, "/completions": self._complete}

    async def _chat(self, request: Request) -> Response:
        asked = await parsed(request, ChatRequest)
        try:
            text = self._engine.chat_prompt([message.model_dump() for message in asked.messages])
        except NoChatTemplateError as error:
            raise ApiError(400, f"{error}: use /v1/completions") from None
        except Exception as error:  # a template is the model's, and may raise what it likes
            _log.info("the chat template refuses a request", exc_info=error)
            raise ApiError(400, f"the model's chat template refuses these messages: {error}"[:1000]) from None
        prompt = self._engine.encode(text, special=False)
        most = asked.max_completion_tokens or asked.max_tokens
        reply = ChatReply(self._model, self._word, bool(asked.logprobs))
        return await self._answer(request, "chat", asked, prompt, most, reply)

    async def _complete(self, request: Request) -> Response:
        asked = await parsed(request, CompletionRequest)
        if isinstance(asked.prompt, list) and isinstance(asked.prompt[0], int):
            prompt = [int(token) for token in asked.prompt]
            check_tokens(prompt, self._engine.vocabulary)
        else:
            text = asked.prompt if isinstance(asked.prompt, str) else str(asked.prompt[0])
            prompt = self._engine.encode(text, special=True)
        reply = CompletionReply(self._model, self._word, asked.logprobs is not None)
        return await self._answer(request, "completions", asked, prompt, asked.max_tokens, reply)

    async def _answer(
        self,
        request: Request,
        endpoint: str,
        asked: ChatRequest | CompletionRequest,
        prompt: Sequence[int],
        max_tokens: int | None,
        reply: Reply,
    ) -> Response:
        room = self._context_length - len(prompt)
        if not prompt:
            raise ApiError(400, "the prompt is empty")
        if room < 1 or (max_tokens or 1) > room:
            raise ApiError(
                400,
                f"the context is {self._context_length} tokens: the prompt has {len(prompt)}, "
                f"and {max_tokens or 1} are asked for",
                code="context_length_exceeded",
            )
        sampling = Sampling(
            max_tokens=max_tokens or room,
            temperature=1.0 if asked.temperature is None else asked.temperature,
            top_p=1.0 if asked.top_p is None else asked.top_p,
            seed=asked.seed,
            logprobs=reply.with_logprobs,
        )
        answer = self._batcher.submit(prompt, sampling)
        self.metrics.prompt_tokens.inc(len(prompt))
        pieces = self._pieces(answer, TextStream(self._engine.decode, asked.stop))
        if asked.stream:
            events = self._events(endpoint, pieces, answer, reply, asked.with_usage)
            return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        try:
            found = await unless_client_leaves(request, _all(pieces))
        finally:
            answer.close()
        return JSONResponse(reply.whole(found) | {"usage": usage(len(prompt), _tokens(found))})

    async def _pieces(self, answer: Answer, text: TextStream) -> AsyncIterator[Piece]:
        """The answer's text as it becomes certain; the last piece says why it ends."""
        began = time.monotonic()
        first = 0.0
        count = 0
        async for output in answer:
            if not first:
                first = time.monotonic()
                self._text.first_token.observe(first - began)
            count += len(output.tokens)
            self._text.tokens.inc(len(output.tokens))
            certain = text.feed(token.id for token in output.tokens)
            if output.finish and not text.stopped:
                certain += text.end()
            finish = "stop" if text.stopped else output.finish
            if finish:
                answer.close()
                if count > 1:
                    self._text.speed.observe((count - 1) / max(time.monotonic() - first, 1e-6))
            yield Piece(certain, output.tokens, finish)
            if finish:
                return

    async def _events(
        self, endpoint: str, pieces: AsyncIterator[Piece], answer: Answer, reply: Reply, with_usage: bool
    ) -> AsyncIterator[bytes]:
        """The answer as server-sent events."""
        began = time.monotonic()
        code = CLIENT_LEFT
        count = 0
        try:
            for opening in reply.opening():
                yield _event(opening)
            async for piece in pieces:
                count += len(piece.tokens)
                if piece.text or piece.finish:
                    yield _event(reply.chunk(piece))
            if with_usage:
                last = reply.chunk(Piece("", ()))
                yield _event(last | {"choices": [], "usage": usage(len(answer.prompt), count)})
            yield b"data: [DONE]\n\n"
            code = 200
        except EngineFailedError:
            code = ENGINE_FAILED.status
            self._engine_failed()
            yield _event(ENGINE_FAILED.body)
        finally:
            answer.close()
            self._count(endpoint, code, began)

    def _word(self, token: int) -> str:
        return self._engine.decode([token])


def _event(content: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(content, separators=(',', ':'), ensure_ascii=False)}\n\n".encode()


def _tokens(pieces: Sequence[Piece]) -> int:
    return sum(len(piece.tokens) for piece in pieces)


async def _all(pieces: AsyncIterator[Piece]) -> list[Piece]:
    return [piece async for piece in pieces]
