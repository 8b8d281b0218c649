"""The front: OpenAI's API over HTTP, on an engine that batches."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from edgemodel.serve.batcher import Answer, Batcher, BusyError, EngineFailedError
from edgemodel.serve.engine import NoChatTemplateError, Sampling, TextEngine
from edgemodel.serve.metrics import Metrics
from edgemodel.serve.protocol import ApiError, ChatRequest, CompletionRequest, explained
from edgemodel.serve.replies import ChatReply, CompletionReply, Piece, Reply, usage
from edgemodel.serve.text import TextStream

_log = logging.getLogger(__name__)
_LARGEST_BODY = 16 << 20
_CLIENT_LEFT = 499
"""As nginx counts a client that did not wait."""

Parsed = TypeVar("Parsed", bound=BaseModel)
Result = TypeVar("Result")
Handler = Callable[[Request], Awaitable[Response]]


class Front:
    """One model behind OpenAI's API. `engine_failed` is called when it can answer nothing any more."""

    def __init__(
        self, model: str, context_length: int, batcher: Batcher, engine_failed: Callable[[], None] = lambda: None
    ) -> None:
        self._model = model
        self._context_length = context_length
        self._batcher = batcher
        self._engine_failed = engine_failed
        self._created = int(time.time())
        self.metrics = Metrics()
        self.metrics.watch(lambda: batcher.waiting, lambda: batcher.running)
        api = [
            Route("/chat/completions", self._counted("chat", self._chat), methods=["POST"]),
            Route("/completions", self._counted("completions", self._complete), methods=["POST"]),
            Route("/models", self._models),
            Route("/models/{name:path}", self._one_model),
        ]
        # OpenVINO Model Server has the same API at /v3, and says at /v2 whether it is ready.
        self.app = Starlette(
            routes=[
                Mount("/v1", routes=api),
                Mount("/v3", routes=api),
                Route("/health", self._health),
                Route("/v2/health/{what}", self._health),
                Route("/metrics", self._scrape),
            ],
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._engine: TextEngine = await self._batcher.open()
        yield
        await self._batcher.close()

    # What the endpoints do

    async def _chat(self, request: Request) -> Response:
        asked = await _parsed(request, ChatRequest)
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
        asked = await _parsed(request, CompletionRequest)
        if isinstance(asked.prompt, list) and isinstance(asked.prompt[0], int):
            prompt = [int(token) for token in asked.prompt]
        else:
            text = asked.prompt if isinstance(asked.prompt, str) else str(asked.prompt[0])
            prompt = self._engine.encode(text, special=True)
        reply = CompletionReply(self._model, self._word, asked.logprobs is not None)
        return await self._answer(request, "completions", asked, prompt, asked.max_tokens, reply)

    async def _models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def _one_model(self, request: Request) -> Response:
        if request.path_params["name"] != self._model:
            return _said(ApiError(404, f"there is only the model {self._model}", code="model_not_found"))
        return JSONResponse(self._card())

    async def _health(self, _: Request) -> Response:
        if self._batcher.failure is not None:
            return _said(ApiError(503, "the engine failed", "server_error"))
        return JSONResponse({"status": "ok"})

    async def _scrape(self, _: Request) -> Response:
        return Response(generate_latest(self.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    # How

    def _counted(self, endpoint: str, handler: Handler) -> Handler:
        async def handle(request: Request) -> Response:
            began = time.monotonic()
            try:
                response = await handler(request)
            except ApiError as error:
                response = _said(error)
            except Exception:
                _log.exception("a request failed")
                response = _said(ApiError(500, "a bug in the server: its log says more", "server_error"))
            if not isinstance(response, StreamingResponse):
                self._count(endpoint, response.status_code, began)
            return response

        return handle

    def _count(self, endpoint: str, code: int, began: float) -> None:
        self.metrics.requests.labels(endpoint, str(code)).inc()
        self.metrics.seconds.labels(endpoint).observe(time.monotonic() - began)

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
        try:
            answer = self._batcher.submit(prompt, sampling)
        except BusyError as error:
            raise ApiError(429, f"{error}: try again later", "rate_limit_error", "rate_limit_exceeded") from None
        except EngineFailedError:
            raise ApiError(503, "the engine failed", "server_error") from None
        self.metrics.prompt_tokens.inc(len(prompt))
        pieces = self._pieces(answer, TextStream(self._engine.decode, asked.stop))
        if asked.stream:
            events = self._events(endpoint, pieces, answer, reply, asked.with_usage)
            return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        try:
            found = await _unless_client_leaves(request, _all(pieces))
        except EngineFailedError:
            self._engine_failed()
            raise ApiError(500, "the engine failed", "server_error") from None
        finally:
            answer.close()
        if found is None:
            return Response(status_code=_CLIENT_LEFT)
        return JSONResponse(reply.whole(found) | {"usage": usage(len(prompt), _tokens(found))})

    async def _pieces(self, answer: Answer, text: TextStream) -> AsyncIterator[Piece]:
        """The answer's text as it becomes certain; the last piece says why it ends."""
        began = time.monotonic()
        first = 0.0
        count = 0
        async for output in answer:
            if not first:
                first = time.monotonic()
                self.metrics.first_token.observe(first - began)
            count += len(output.tokens)
            self.metrics.tokens.inc(len(output.tokens))
            certain = text.feed(token.id for token in output.tokens)
            if output.finish and not text.stopped:
                certain += text.end()
            finish = "stop" if text.stopped else output.finish
            if finish:
                answer.close()
                if count > 1:
                    self.metrics.speed.observe((count - 1) / max(time.monotonic() - first, 1e-6))
            yield Piece(certain, output.tokens, finish)
            if finish:
                return

    async def _events(
        self, endpoint: str, pieces: AsyncIterator[Piece], answer: Answer, reply: Reply, with_usage: bool
    ) -> AsyncIterator[bytes]:
        """The answer as server-sent events."""
        began = time.monotonic()
        code = _CLIENT_LEFT
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
            code = 500
            self._engine_failed()
            yield _event(ApiError(500, "the engine failed", "server_error").body)
        finally:
            answer.close()
            self._count(endpoint, code, began)

    def _word(self, token: int) -> str:
        return self._engine.decode([token])

    def _card(self) -> dict[str, Any]:
        return {"id": self._model, "object": "model", "created": self._created, "owned_by": "edgemodel"}


def _said(error: ApiError) -> Response:
    return JSONResponse(error.body, status_code=error.status)


def _event(content: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(content, separators=(',', ':'), ensure_ascii=False)}\n\n".encode()


def _tokens(pieces: Sequence[Piece]) -> int:
    return sum(len(piece.tokens) for piece in pieces)


async def _parsed(request: Request, kind: type[Parsed]) -> Parsed:
    body = bytearray()
    async for block in request.stream():
        body += block
        if len(body) > _LARGEST_BODY:
            raise ApiError(413, f"a request may have {_LARGEST_BODY} bytes")
    try:
        return kind.model_validate_json(bytes(body))
    except ValidationError as error:
        raise ApiError(400, explained(error)) from None


async def _all(pieces: AsyncIterator[Piece]) -> list[Piece]:
    return [piece async for piece in pieces]


async def _unless_client_leaves(request: Request, work: Coroutine[Any, Any, Result]) -> Result | None:
    """The work's result; None, and the work is cancelled, if the client leaves before."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(left())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, leaving):
            task.cancel()
            with suppress(asyncio.CancelledError, EngineFailedError):
                await task
