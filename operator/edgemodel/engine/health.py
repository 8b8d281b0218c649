"""What a kubelet and a Prometheus ask: /healthz, /readyz, /metrics."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

Problem = Callable[[], str]
"""What is wrong, in a sentence; empty when nothing is."""


@asynccontextmanager
async def serve(port: int, alive: Problem, ready: Problem) -> AsyncIterator[int]:
    """Serves while the context lasts, on all addresses. Yields the port, which the system picks if 0 is asked for."""

    def probe(problem: Problem) -> Callable[[web.Request], object]:
        async def answer(_: web.Request) -> web.Response:
            wrong = problem()
            return web.Response(status=503 if wrong else 200, text=wrong or "ok")

        return answer

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/healthz", probe(alive))  # type: ignore[arg-type]
    app.router.add_get("/readyz", probe(ready))  # type: ignore[arg-type]
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, port=port).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
