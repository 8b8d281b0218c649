"""Talks to the API server: JSON over one aiohttp session.

The official client is left out on purpose: it builds a model object for each answer and throws it away for us, who want
JSON, and costs more memory than all the rest of the operator (see `access`).

Answers that say "later" (429, 5xx, a broken connection) are retried a few times here; all others, and these in the end,
are raised as the exceptions of `errors`. Each answer is counted, so that "an idle operator writes nothing" can be seen.
"""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Iterable
from types import TracebackType
from typing import Literal, Protocol, Self

import aiohttp
from prometheus_client import Counter, Histogram

from edgemodel.engine.errors import ApiError, NotFound, Throttled, Unavailable, api_error
from edgemodel.engine.objects import Object, Ref, Resource

FIELD_MANAGER = "edgemodel"
Propagation = Literal["Background", "Foreground", "Orphan"]

_BACKOFFS = (0.1, 0.4, 1.6)
_LONGEST_WAIT = 10.0  # a server that asks for more is answered by the work queue, not by a sleeping worker
_TIMEOUT = aiohttp.ClientTimeout(total=30)
_CONNECTIONS = 32
_PAGE = 250

_REQUESTS = Counter("edgemodel_api_requests", "Requests to the API server", ["verb", "resource", "code"])
_DURATION = Histogram(
    "edgemodel_api_request_duration_seconds",
    "How long a request to the API server took",
    ["verb", "resource"],
    buckets=(5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 30),
)


class Access(Protocol):
    """Where the API server is, and sessions that authenticate: of an operator (`access`), or of a node."""

    @property
    def server(self) -> str:
        """The API server's address."""
        ...

    def session(self, *, connections: int = 0) -> aiohttp.ClientSession:
        """A session, with a bound on its connections if there is to be one."""
        ...


class Client:
    """Reads and writes objects of the given resources. Use it as an async context manager."""

    def __init__(self, access: Access, resources: Iterable[Resource]) -> None:
        self._access = access
        self._resources = {resource.kind: resource for resource in resources}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = self._access.session(connections=_CONNECTIONS)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session:
            await self._session.close()

    async def get(self, ref: Ref) -> Object:
        """One object. Raises NotFound."""
        return await self._request("get", ref, "GET")

    async def list(self, kind: str, namespace: str = "", label_selector: str = "") -> AsyncIterator[Object]:
        """All objects of a kind, page by page."""
        query = {"limit": str(_PAGE), "labelSelector": label_selector}
        while True:
            page = await self._request("list", Ref(kind, namespace, ""), "GET", query=query)
            for item in page["items"]:
                yield {"apiVersion": page["apiVersion"], "kind": kind, **item}
            if not (more := page["metadata"].get("continue")):
                return
            query["continue"] = more

    async def create(self, obj: Object) -> Object:
        """Creates an object. Raises Conflict if it is there, be it from an attempt of ours whose answer was lost."""
        ref = Ref.of(obj)._replace(name="")
        return await self._request("create", ref, "POST", obj, query={"fieldManager": FIELD_MANAGER})

    async def apply(self, obj: Object) -> Object:
        """Server-side apply: makes the fields that `obj` has what they are in it, and takes back those it once had."""
        return await self._apply("apply", obj, "")

    async def apply_status(self, obj: Object) -> Object:
        """Server-side apply of the status subresource."""
        return await self._apply("apply_status", obj, "status")

    async def merge(self, ref: Ref, patch: Object) -> Object:
        """JSON merge patch. With `metadata.resourceVersion` in it, raises Conflict if another write came first."""
        return await self._request(
            "patch",
            ref,
            "PATCH",
            patch,
            content_type="application/merge-patch+json",
            query={"fieldManager": FIELD_MANAGER},
        )

    async def delete(
        self, ref: Ref, uid: str | None = None, propagation: Propagation = "Background", grace: int | None = None
    ) -> Object | None:
        """Deletes an object: its last state where it must still be finalized, else None, also if it was gone.

        With a uid only that very object: raises Conflict if another has its name now. `grace` is for pods, in seconds.
        """
        options: Object = {"propagationPolicy": propagation}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        if uid:
            options["preconditions"] = {"uid": uid}
        try:
            answer = await self._request("delete", ref, "DELETE", options)
        except NotFound:
            return None
        return answer if answer.get("kind") == ref.kind else None

    async def serves(self, resource: Resource) -> bool:
        """Whether the API server knows a resource: for a custom one, whether its definition is there."""
        try:
            found = await self._send("discover", resource.plural, "GET", resource.root)
        except NotFound:
            return False
        return any(entry["name"] == resource.plural for entry in found["resources"])

    async def _apply(self, verb: str, obj: Object, subresource: str) -> Object:
        return await self._request(
            verb,
            Ref.of(obj),
            "PATCH",
            obj,
            content_type="application/apply-patch+yaml",  # JSON is YAML
            query={"fieldManager": FIELD_MANAGER, "force": "true"},
            subresource=subresource,
        )

    async def _request(
        self,
        verb: str,
        ref: Ref,
        method: str,
        body: Object | None = None,
        *,
        content_type: str = "application/json",
        query: dict[str, str] | None = None,
        subresource: str = "",
    ) -> Object:
        resource = self._resources[ref.kind]
        path = resource.path(ref.namespace, ref.name, subresource)
        return await self._send(verb, resource.plural, method, path, body, content_type, query)

    async def _send(
        self,
        verb: str,
        plural: str,
        method: str,
        path: str,
        body: Object | None = None,
        content_type: str = "application/json",
        query: dict[str, str] | None = None,
    ) -> Object:
        """One request, retried while the answer says "later"."""
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        headers = {"Content-Type": content_type} if data else {}
        for backoff in (*_BACKOFFS, None):
            started = time.monotonic()
            try:
                answer = await self._once(method, path, query, data, headers)
            except ApiError as error:
                _REQUESTS.labels(verb, plural, error.code or "none").inc()
                wait = error.after if isinstance(error, Throttled) and backoff else backoff
                if not isinstance(error, Throttled | Unavailable) or wait is None or wait > _LONGEST_WAIT:
                    raise
            else:
                _REQUESTS.labels(verb, plural, 200).inc()
                return answer
            finally:
                _DURATION.labels(verb, plural).observe(time.monotonic() - started)
            await asyncio.sleep(wait * random.uniform(0.75, 1.25))  # noqa: S311
        raise AssertionError("unreachable")

    async def _once(
        self, method: str, path: str, query: dict[str, str] | None, data: bytes | None, headers: dict[str, str]
    ) -> Object:
        if not self._session:
            raise RuntimeError("the client is not open")
        try:
            async with self._session.request(
                method, self._access.server + path, params=query, data=data, headers=headers, timeout=_TIMEOUT
            ) as response:
                content = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(0, "", f"no answer from the API server: {error or type(error).__name__}") from error
        answer = _parse(content)
        if response.status < 300:
            return answer
        message = answer.get("message") or content[:500].decode(errors="replace")
        raise api_error(response.status, answer.get("reason", ""), message, response.headers.get("Retry-After"))


def _parse(content: bytes) -> Object:
    """An answer's JSON; an empty object where a proxy or an overloaded server answers with something else."""
    try:
        answer = json.loads(content)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}
