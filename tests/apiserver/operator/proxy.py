"""A proxy between one operator and its API server or store, which can kill the operator at a write of its own."""

import asyncio
import os
import re
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

import aiohttp
from aiohttp import web
from yarl import URL

_COLLECTION = re.compile(r"(/api/v1|/apis/[^/]+/[^/]+)/([a-z]+)")
_CLUSTER_SCOPED = frozenset({"nodes", "namespaces", "edgeruntimes", "hardwareclasses", "customresourcedefinitions"})
_HOP = frozenset({"connection", "transfer-encoding", "keep-alive", "content-length"})


@dataclass
class Writes:
    """Counts the writes of one operator, to the API server and to the store alike, and kills it at one of them."""

    kill_at: int = 0
    """The write at which to kill; 0: none."""
    when: Literal["before", "after"] = "after"
    """before: the write doesn't happen. after: it does, and nobody hears the answer."""
    pid: int = 0
    """Whom."""
    seen: list[str] = field(default_factory=list)
    """The writes."""
    dead: bool = False
    """Once killed: what still comes is from the dead."""

    def strike(self, number: int, when: str) -> bool:
        """Kills, if this is the write. Whether the operator is dead."""
        if not self.dead and self.kill_at == number and self.when == when:
            self.dead = True
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        return self.dead

    def next_life(self, pid: int, kill_at: int = 0) -> None:
        """Another process comes. Writes are counted on."""
        self.pid, self.kill_at, self.dead = pid, kill_at, False


class Proxy:
    """Forwards everything from a port of its own.

    With a namespace, lists and watches of all namespaces are narrowed to it. So several operators can live on one API
    server and know nothing of each other.
    """

    def __init__(
        self, upstream: str, session: Callable[[], aiohttp.ClientSession], writes: Writes, namespace: str = ""
    ) -> None:
        self._upstream = upstream
        self._make_session = session
        self.writes = writes
        self._namespace = namespace
        self.refuse: Callable[[str, str], int] = lambda method, path: 0
        """A status to answer with instead of asking the server; 0: ask it."""
        self.impersonate: dict[str, str] = {}
        """Headers by which the API server takes all of it for somebody else's."""
        self.forbidden: list[str] = []
        """What the server did not let them do."""
        self.url = ""

    async def open(self) -> None:
        """Listens."""
        self._session = self._make_session()
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def close(self) -> None:
        """Ends."""
        await self._runner.cleanup()
        await self._session.close()

    def _narrowed(self, method: str, path: str) -> str:
        match = _COLLECTION.fullmatch(path)
        if self._namespace and method == "GET" and match and match[2] not in _CLUSTER_SCOPED:
            return f"{match[1]}/namespaces/{self._namespace}/{match[2]}"
        return path

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        raw_path, _, query = request.raw_path.partition("?")
        is_write = request.method not in ("GET", "HEAD")
        body = await request.read()
        number = 0
        if is_write:
            if self.writes.dead:
                return self._cut(request)
            self.writes.seen.append(f"{request.method} {raw_path}")
            number = len(self.writes.seen)
            if self.writes.strike(number, "before"):
                return self._cut(request)
        if code := self.refuse(request.method, raw_path):
            return web.Response(status=code, text="refused by a test")
        url = URL(
            f"{self._upstream}{self._narrowed(request.method, raw_path)}{'?' if query else ''}{query}", encoded=True
        )
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        if self._upstream.startswith("https"):
            headers.pop("Host", None)
        headers |= self.impersonate
        try:
            async with self._session.request(
                request.method,
                url,
                headers=headers,
                data=body or None,
                skip_auto_headers=("User-Agent", "Content-Type", "Accept", "Accept-Encoding"),
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,
            ) as answer:
                kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP}
                if answer.status == 403:
                    self.forbidden.append(f"{request.method} {url.path}")
                if request.query.get("watch"):
                    return await self._stream(request, answer, kept)
                content = await answer.read()
                if is_write and self.writes.strike(number, "after"):
                    return self._cut(request)
                if request.method == "HEAD":
                    kept["Content-Length"] = answer.headers.get("Content-Length", "0")
                return web.Response(status=answer.status, headers=kept, body=content)
        except (aiohttp.ClientError, OSError):
            return self._cut(request)

    async def _stream(
        self, request: web.Request, answer: aiohttp.ClientResponse, headers: dict[str, str]
    ) -> web.StreamResponse:
        stream = web.StreamResponse(status=answer.status, headers=headers)
        await stream.prepare(request)
        with suppress(aiohttp.ClientError, OSError, asyncio.TimeoutError):
            async for block in answer.content.iter_any():
                await stream.write(block)
            await stream.write_eof()
        return stream

    def _cut(self, request: web.Request) -> web.Response:
        if request.transport:
            request.transport.abort()
        return web.Response(status=502)
