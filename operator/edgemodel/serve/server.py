"""The HTTP server under a front: uvicorn, which leaves without losing a request."""

import signal
import time
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_KEEP_ALIVE_SECONDS = 75
"""How long a client may keep an idle connection: longer than clients and proxies do, most of which give up at 60 s or
before. Were ours the shorter time, one would now and then send a request just when the connection is closed."""
_LEAVE_SECONDS = 6
"""How long clients have for one more request, whose answer tells them to leave."""


class GracefulServer(uvicorn.Server):
    """On SIGTERM it goes on answering, and asks its clients to leave: each answer closes its connection.

    It stops when the connections are gone or have had their time, by when the Service sends nobody here any more; what
    is being answered uvicorn waits for. Closed at once, a connection might carry a request that nobody has read.
    """

    def __init__(self, app: ASGIApp, host: str, port: int, drain_seconds: int) -> None:
        super().__init__(
            uvicorn.Config(
                self._asking_to_leave(app),
                host=host,
                port=port,
                log_level="warning",
                access_log=False,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=drain_seconds,
            )
        )
        self._leave_by: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first SIGTERM begins to drain; any other signal, and the second, stop."""
        if sig != signal.SIGTERM or self._leave_by is not None:
            super().handle_exit(sig, frame)
            return
        self._leave_by = time.monotonic() + _LEAVE_SECONDS

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to stop now."""
        if self._leave_by is not None and (not self.server_state.connections or time.monotonic() > self._leave_by):
            self.should_exit = True
        return await super().on_tick(counter)

    def _asking_to_leave(self, app: ASGIApp) -> ASGIApp:
        async def asking(scope: Scope, receive: Receive, send: Send) -> None:
            async def leave(message: Message) -> None:
                if message["type"] == "http.response.start" and self._leave_by is not None:
                    headers: list[Any] = [*message.get("headers", ()), (b"connection", b"close")]
                    message = {**message, "headers": headers}
                await send(message)

            await app(scope, receive, leave)

        return asking
