"""What every front is: one model behind OpenAI's API over HTTP, on an engine with a thread of its own."""

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Generic, TypeVar

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from edgemodel.serve.engine_thread import BusyError, Engine, EngineFailedError, EngineThread
from edgemodel.serve.metrics import Metrics
from edgemodel.serve.protocol import ApiError, explained

_log = logging.getLogger(__name__)
_LARGEST_BODY = 16 << 20
CLIENT_LEFT = 499
"""As nginx counts a client that did not wait."""

Parsed = TypeVar("Parsed", bound=BaseModel)
Result = TypeVar("Result")
Handler = Callable[[Request], Awaitable[Response]]


class Front(ABC, Generic[Engine]):
    """One model behind OpenAI's API. `engine_failed` is called when it can answer nothing any more."""

    def __init__(
        self,
        model: str,
        context_length: int,
        thread: EngineThread[Engine, Any],
        metrics: Metrics,
        engine_failed: Callable[[], None],
    ) -> None:
        self._model = model
        self._context_length = context_length
        self._thread = thread
        self._engine_failed = engine_failed
        self._created = int(time.time())
        metrics.watch(lambda: thread.waiting, lambda: thread.running)
        self.metrics = metrics
        api = [
            *(
                Route(path, self._counted(path.strip("/").partition("/")[0], handler), methods=["POST"])
                for path, handler in self._endpoints().items()
            ),
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

    @abstractmethod
    def _endpoints(self) -> Mapping[str, Handler]:
        """What clients post to, and who answers. The first part of a path is the endpoint's name in metrics."""

    @property
    def failure(self) -> BaseException | None:
        """Why it can answer nothing any more."""
        return self._thread.failure

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._engine: Engine = await self._thread.open()
        yield
        await self._thread.close()

    async def _models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def _one_model(self, request: Request) -> Response:
        if request.path_params["name"] != self._model:
            return _said(ApiError(404, f"there is only the model {self._model}", code="model_not_found"))
        return JSONResponse(self._card())

    async def _health(self, _: Request) -> Response:
        if self.failure is not None:
            return _said(ApiError(503, "the engine failed", "server_error"))
        return JSONResponse({"status": "ok"})

    async def _scrape(self, _: Request) -> Response:
        return Response(generate_latest(self.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    def _counted(self, endpoint: str, handler: Handler) -> Handler:
        async def handle(request: Request) -> Response:
            began = time.monotonic()
            try:
                response = await handler(request)
            except ApiError as error:
                response = _said(error)
            except BusyError as error:
                response = _said(ApiError(429, f"{error}: try again later", "rate_limit_error", "rate_limit_exceeded"))
            except EngineFailedError:
                self._engine_failed()
                response = _said(ENGINE_FAILED)
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

    def _card(self) -> dict[str, Any]:
        return {"id": self._model, "object": "model", "created": self._created, "owned_by": "edgemodel"}


ENGINE_FAILED = ApiError(503, "the engine failed", "server_error")


def _said(error: ApiError) -> Response:
    return JSONResponse(error.body, status_code=error.status)


async def parsed(request: Request, kind: type[Parsed]) -> Parsed:
    """The request's body. `ApiError` if it is none, or too large."""
    body = bytearray()
    async for block in request.stream():
        body += block
        if len(body) > _LARGEST_BODY:
            raise ApiError(413, f"a request may have {_LARGEST_BODY} bytes")
    try:
        return kind.model_validate_json(bytes(body))
    except ValidationError as error:
        raise ApiError(400, explained(error)) from None


async def unless_client_leaves(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The work's result. If the client leaves before, the work is cancelled, and the error that says so raised."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(left())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApiError(CLIENT_LEFT, "the client left")
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
            with suppress(asyncio.CancelledError, EngineFailedError):
                await task
