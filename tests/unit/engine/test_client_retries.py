"""What the client does when the API server says "later". Request shapes are tested on a real one."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest
from aiohttp import web
from prometheus_client import REGISTRY

from edgemodel.engine import client as clients
from edgemodel.engine.access import Access
from edgemodel.engine.client import Client
from edgemodel.engine.errors import ApiError, Forbidden, NotFound, Throttled, Unavailable, api_error
from edgemodel.engine.objects import Ref, Resource

THINGS = Resource("test.dev", "v1", "things", "Thing")
REF = Ref("Thing", "n", "a")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "_BACKOFFS", (0.001, 0.001, 0.001))


def with_answers(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    *answers: web.Response,
    then: Callable[[Client], Coroutine[None, None, None]],
) -> int:
    """Runs something with a client of a server that gives these answers. How often it was asked."""
    left = list(answers)

    async def answer(request: web.Request) -> web.Response:
        assert request.path == "/apis/test.dev/v1/namespaces/n/things/a"
        assert request.headers["Authorization"] == "Bearer t0ken"
        return left.pop(0)

    async def scenario() -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        path = tmp_path / "kubeconfig"
        path.write_text(
            '{"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],'
            f'"clusters": [{{"name": "c", "cluster": {{"server": "http://127.0.0.1:{runner.addresses[0][1]}"}}}}],'
            '"users": [{"name": "u", "user": {"token": "t0ken"}}]}'
        )
        monkeypatch.setenv("KUBECONFIG", str(path))
        async with Client(Access(), [THINGS]) as client:
            await then(client)
        await runner.cleanup()

    asyncio.run(scenario())
    return len(answers) - len(left)


def status(code: int, message: str = "no", **headers: str) -> web.Response:
    return web.json_response({"kind": "Status", "message": message, "reason": "R"}, status=code, headers=headers)


FOUND = {"kind": "Thing"}


def test_later_is_asked_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def then(client: Client) -> None:
        assert await client.get(REF) == FOUND

    again = {"Retry-After": "0"}
    answers = status(503), status(429, **again), web.json_response(FOUND)
    assert with_answers(monkeypatch, tmp_path, *answers, then=then) == 2 + 1


def test_an_error_that_stays_is_raised_in_the_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def then(client: Client) -> None:
        with pytest.raises(Unavailable, match="broken"):
            await client.get(REF)

    assert with_answers(monkeypatch, tmp_path, *[status(500, "broken") for _ in range(9)], then=then) == 4


def test_a_long_wait_is_left_to_the_work_queue(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def then(client: Client) -> None:
        with pytest.raises(Throttled) as caught:
            await client.get(REF)
        assert caught.value.after == 60

    long = {"Retry-After": "60"}
    assert with_answers(monkeypatch, tmp_path, status(429, **long), status(500), then=then) == 1


@pytest.mark.parametrize(("code", "kind"), [(404, NotFound), (403, Forbidden), (410, ApiError)])
def test_other_errors_are_raised_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int, kind: type[ApiError]
) -> None:
    async def then(client: Client) -> None:
        with pytest.raises(kind, match="because") as caught:
            await client.get(REF)
        assert type(caught.value) is kind

    assert with_answers(monkeypatch, tmp_path, status(code, "because"), status(500), then=then) == 1


def test_each_answer_is_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def count(code: str) -> float:
        labels = {"verb": "get", "resource": "things", "code": code}
        return REGISTRY.get_sample_value("edgemodel_api_requests_total", labels) or 0

    async def then(client: Client) -> None:
        await client.get(REF)

    before = count("503"), count("200")
    with_answers(monkeypatch, tmp_path, status(503), web.json_response(FOUND), then=then)
    assert (count("503"), count("200")) == (before[0] + 1, before[1] + 1)


def test_no_answer_at_all_is_unavailable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def then(client: Client) -> None:
        assert isinstance(client._access, Access)
        monkeypatch.setattr(client._access, "_info", client._access._info.__class__(server="http://127.0.0.1:1"))
        with pytest.raises(Unavailable, match="no answer"):
            await client.get(REF)

    assert with_answers(monkeypatch, tmp_path, then=then) == 0


def test_retry_after_that_is_no_number_is_a_second() -> None:
    error = api_error(429, "", "slow down", "Wed, 21 Oct 2026 07:28:00 GMT")
    assert isinstance(error, Throttled)
    assert error.after == 1
