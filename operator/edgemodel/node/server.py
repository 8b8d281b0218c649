"""What the API server, Prometheus and metrics-server ask of a node, as a kubelet answers it, over HTTPS.

Nobody is answered who isn't known (by a client certificate of the cluster's, or a token that the API server vouches
for) and allowed (by the API server, to whom each question is put as a SubjectAccessReview).
"""

import hashlib
import logging
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from edgemodel.engine.client import Client
from edgemodel.engine.errors import ApiError
from edgemodel.engine.objects import Resource
from edgemodel.node import logs

ACCESS_REVIEWS = Resource("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", False)
TOKEN_REVIEWS = Resource("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", False)

_log = logging.getLogger(__name__)
_ALLOWED_FOR, _REFUSED_FOR = 60.0, 10.0
_MOST_ANSWERS = 1000
_SUBRESOURCES = {"metrics": "metrics", "stats": "stats", "healthz": "healthz"}
"""By the first part of a path; for all others, the logs among them, it is `proxy`."""


class User(NamedTuple):
    """Who asks."""

    name: str
    groups: tuple[str, ...]


@dataclass(frozen=True)
class Usage:
    """What a container takes."""

    namespace: str
    pod: str
    container: str
    cpu_seconds: float
    memory: int
    started: float


class LogFile(NamedTuple):
    """A container's log."""

    path: Path
    goes_on: Callable[[], bool]


class NotThere(Exception):  # noqa: N818 - reads as what it is
    """There is no such pod, container or run."""


class Node(Protocol):
    """What the server tells of."""

    def log(self, namespace: str, pod: str, container: str, previous: bool) -> LogFile:
        """A container's log. Raises NotThere."""
        ...

    def usage(self) -> Iterable[Usage]:
        """What containers take."""
        ...

    def machine_usage(self) -> tuple[float, int]:
        """Seconds of CPU and bytes of memory of all that runs on the machine."""
        ...


class Guard:
    """Who may ask what: kept for a while, so that not every question is two."""

    def __init__(self, client: Client, node: str) -> None:
        self._client = client
        self._node = node
        self._users: dict[str, tuple[User | None, float]] = {}
        self._answers: dict[tuple[User, str, str], tuple[bool, float]] = {}

    async def bearer(self, token: str) -> User | None:
        """Whose token it is, as the API server says."""
        digest = hashlib.sha256(token.encode()).hexdigest()
        known = self._users.get(digest)
        if known is None or known[1] < time.monotonic():
            status = (await self._create(TOKEN_REVIEWS, {"token": token})).get("status", {})
            user = status.get("user", {}) if status.get("authenticated") else None
            found = User(user.get("username", ""), tuple(user.get("groups", ()))) if user else None
            known = self._users[digest] = (found, _until(found is not None))
            _forget(self._users)
        return known[0]

    async def allows(self, user: User, verb: str, subresource: str) -> bool:
        """Whether the API server lets a user do this with our node."""
        question = (user, verb, subresource)
        known = self._answers.get(question)
        if known is None or known[1] < time.monotonic():
            attributes = {"resource": "nodes", "subresource": subresource, "name": self._node, "verb": verb}
            spec = {"user": user.name, "groups": list(user.groups), "resourceAttributes": attributes}
            allowed = bool((await self._create(ACCESS_REVIEWS, spec)).get("status", {}).get("allowed"))
            known = self._answers[question] = (allowed, _until(allowed))
            _forget(self._answers)
        return known[0]

    async def _create(self, resource: Resource, spec: Mapping[str, Any]) -> dict[str, Any]:
        review = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": ""}, "spec": spec}
        return await self._client.create(review)


def _until(good: bool) -> float:
    return time.monotonic() + (_ALLOWED_FOR if good else _REFUSED_FOR)


def _forget(answers: dict[Any, Any]) -> None:
    while len(answers) > _MOST_ANSWERS:
        del answers[next(iter(answers))]


class NodeServer:
    """The server. Use it as an async context manager."""

    def __init__(self, node: Node, guard: Guard, address: str, port: int, identity: Path, authority: str) -> None:
        self._node = node
        self._guard = guard
        self._address, self._port = address, port
        self._identity = identity
        self._ssl = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ssl.minimum_version = ssl.TLSVersion.TLSv1_2
        self._ssl.verify_mode = ssl.CERT_OPTIONAL
        self._ssl.load_verify_locations(cadata=authority)
        self.renewed()
        app = web.Application(middlewares=[self._only_for_the_allowed])
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/metrics", self._metrics),
                web.get("/metrics/resource", self._resource_metrics),
                web.get("/containerLogs/{namespace}/{pod}/{container}", self._logs),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1)

    def renewed(self) -> None:
        """There is another serving certificate."""
        self._ssl.load_cert_chain(self._identity)

    async def __aenter__(self) -> "NodeServer":
        await self._runner.setup()
        await web.TCPSite(self._runner, self._address, self._port, ssl_context=self._ssl, reuse_address=True).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    @web.middleware
    async def _only_for_the_allowed(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        subresource = _SUBRESOURCES.get(request.path.split("/")[1], "proxy")
        try:
            user = await self._who(request)
            if user is None:
                return web.Response(status=401, text="Unauthorized\n")
            if not await self._guard.allows(user, request.method.lower(), subresource):
                said = f"user {user.name} may not {request.method.lower()} nodes/{subresource} of this node"
                return web.Response(status=403, text=f"Forbidden: {said}\n")
        except ApiError as error:
            _log.warning("cannot ask the API server who may ask: %s", error)
            return web.Response(status=503, text="the API server does not say who may ask this\n")
        return await handler(request)

    async def _who(self, request: web.Request) -> User | None:
        certificate = request.transport.get_extra_info("peercert") if request.transport else None
        if certificate:
            subject = [pair for part in certificate.get("subject", ()) for pair in part]
            names = [value for kind, value in subject if kind == "commonName"]
            return User(names[0], tuple(v for k, v in subject if k == "organizationName")) if names else None
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        return await self._guard.bearer(token) if scheme.lower() == "bearer" and token else None

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _resource_metrics(self, _: web.Request) -> web.Response:
        registry = CollectorRegistry()
        registry.register(_Resources(self._node))
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        place, query = request.match_info, request.query
        try:
            wanted = _wanted(query)
        except ValueError as error:
            return web.Response(status=400, text=f"{error}\n")
        try:
            log = self._node.log(place["namespace"], place["pod"], place["container"], query.get("previous") == "true")
        except NotThere as error:
            return web.Response(status=404, text=f"{error}\n")
        response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
        await response.prepare(request)
        async for text in logs.read(log.path, wanted, log.goes_on):
            await response.write(text)
        await response.write_eof()
        return response


def _wanted(query: Mapping[str, str]) -> logs.Wanted:
    """What the query asks for. Raises ValueError."""

    def number(name: str) -> int | None:
        value = query.get(name)
        if value is not None and not value.isdigit():
            raise ValueError(f"{name} is not a number")
        return None if value is None else int(value)

    since = ""
    if (seconds := number("sinceSeconds")) is not None:
        since = _log_time(datetime.now(UTC) - timedelta(seconds=seconds))
    elif time_given := query.get("sinceTime"):
        since = _log_time(datetime.fromisoformat(time_given))
    return logs.Wanted(
        follow=query.get("follow") == "true",
        tail=number("tailLines"),
        since=since,
        timestamps=query.get("timestamps") == "true",
        limit=number("limitBytes"),
    )


def _log_time(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class _Resources(Collector):
    """What metrics-server wants to know."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def collect(self) -> Iterable[Metric]:
        """CPU and memory of the node, its pods and their containers."""
        cpu, memory = self._node.machine_usage()
        yield CounterMetricFamily("node_cpu_usage_seconds", "CPU of the node", cpu)
        yield GaugeMetricFamily("node_memory_working_set_bytes", "Memory of the node", memory)
        for kind, labels in (("container", ("container", "namespace", "pod")), ("pod", ("namespace", "pod"))):
            seconds = CounterMetricFamily(f"{kind}_cpu_usage_seconds", f"CPU of a {kind}", labels=labels)
            size = GaugeMetricFamily(f"{kind}_memory_working_set_bytes", f"Memory of a {kind}", labels=labels)
            began = GaugeMetricFamily(f"{kind}_start_time_seconds", f"When a {kind} began", labels=labels)
            for each in self._node.usage():  # a pod has one container that goes on
                values = [getattr(each, label) for label in labels]
                seconds.add_metric(values, each.cpu_seconds)
                size.add_metric(values, each.memory)
                began.add_metric(values, each.started)
            yield from (seconds, size, began)
        yield GaugeMetricFamily("resource_scrape_error", "1 if something could not be read", 0)
