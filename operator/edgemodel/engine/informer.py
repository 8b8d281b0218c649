"""Keeps the cache like the cluster. kopf lists and watches; this only listens.

kopf does what is hard about a watch: bookmarks, dead connections, versions that are too old, backoff. Its handlers
here are `on.event`, which write nothing to objects, keep no state on them and add no finalizers, and whose one act is
to hand the object to the cache, which puts keys on the work queue.

Two things kopf tells no handler: that a first list has ended (also an empty one), and what a later list no longer
has, because it went while the watch was down. Both are read where they pass by: kopf takes our HTTP session, and a
middleware in it reads the answers to list requests as well.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from typing import Any, cast

import aiohttp
import kopf
from prometheus_client import Counter

from edgemodel.engine.access import Access
from edgemodel.engine.cache import Cache, Watch
from edgemodel.engine.client import Client
from edgemodel.engine.errors import ApiError, EngineError
from edgemodel.engine.objects import Object, Ref, Resource

_log = logging.getLogger(__name__)
_PAGE = 250
_LOOK_FOR_DEFINITIONS = (1.0, 2.0, 5.0, 10.0, 30.0)

_LISTS = Counter("edgemodel_informer_lists", "Whole lists: one at the start, more when a watch began anew", ["kind"])


class _AllTasks(Collection[Any]):
    """What kopf is not to end when it stops: it takes every task of the event loop for its own."""

    def __contains__(self, _: object) -> bool:
        return True

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __len__(self) -> int:
        return 0


class Informer:
    """Feeds one cache from one API server."""

    def __init__(self, access: Access, client: Client, watches: Sequence[Watch], cache: Cache) -> None:
        self._access = access
        self._client = client
        self._watches = watches
        self._cache = cache
        self._kinds = {watch.resource.path(): watch.resource.kind for watch in watches}
        self._listing: dict[str, set[Ref]] = {}
        self._unseen = set(self._kinds.values())
        self.synced = asyncio.Event()
        """Set once every kind has been listed."""
        self.missing: list[str] = []
        """The resources that the API server doesn't know (yet)."""

    async def find_definitions(self) -> None:
        """Waits until the API server knows all watched resources: kopf would pass over one that is missing."""
        waits = iter(_LOOK_FOR_DEFINITIONS)
        wait = 0.0
        while True:
            resources = [watch.resource for watch in self._watches]
            try:
                self.missing = [str(resource) for resource in resources if not await self._client.serves(resource)]
            except ApiError as error:
                _log.error("cannot ask the API server what it serves: %s", error)
            else:
                if not self.missing:
                    return
                _log.error("not installed in this cluster: %s. Apply the CRDs; waiting", ", ".join(self.missing))
            wait = next(waits, wait)
            await asyncio.sleep(wait)

    async def run(self, started: Callable[[], None]) -> None:
        """Lists and watches until cancelled; fails when a watch cannot go on. Calls `started` once kopf has started."""
        async with self._access.session(self._overhear) as session:
            tasks = await kopf.spawn_tasks(
                registry=self._registry(session),
                settings=self._settings(),
                identity=cast(Any, "edgemodel"),  # else kopf asks for a user name, which a container's uid may lack
                standalone=True,
                clusterwide=True,
            )
            started()
            try:
                await kopf.run_tasks(tasks, ignored=_AllTasks())
            except Exception as error:
                raise EngineError(f"a watch could not be kept up: {error}") from error
            finally:
                asyncio.get_running_loop().set_exception_handler(_overlook_generators)

    def _registry(self, session: aiohttp.ClientSession) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()

        async def login(**_: Any) -> kopf.AiohttpSession:
            return kopf.AiohttpSession(server=self._access.server, aiohttp_session=session)

        kopf.on.login(id="access", registry=registry)(login)
        for watch in self._watches:
            kopf.on.event(*_selector(watch.resource), id=watch.resource.plural, registry=registry)(self._handler(watch))
        return registry

    def _settings(self) -> kopf.OperatorSettings:
        settings = kopf.OperatorSettings()
        settings.posting.enabled = False
        settings.scanning.disabled = True
        settings.process.ultimate_exiting_timeout = None
        settings.watching.chunk_size = _PAGE
        settings.queueing.idle_timeout = 0.1  # each object's task holds its last event
        settings.networking.error_backoffs = (0.2, 0.5, 1, 2, 3, 5, 5, 5, 10, 10, 10)
        for watch in self._watches:
            if watch.label_selector:
                settings.watching.label_selectors[_selector(watch.resource)] = watch.label_selector
        return settings

    def _handler(self, watch: Watch) -> Callable[..., Coroutine[None, None, None]]:
        kind = watch.resource.kind

        async def handle(event: kopf.RawEvent, **_: Any) -> None:
            """One watch event. What was listed comes with no type, and is in the cache already."""
            obj: Object = dict(event["object"])
            try:
                if event["type"] == "DELETED":
                    self._cache.remove(kind, obj)
                elif event["type"] is not None:
                    self._cache.put(kind, obj)
            except Exception:
                _log.exception("cannot take in %s %s", kind, obj["metadata"].get("name"))

        return handle

    async def _overhear(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        response = await handler(request)
        kind = self._kinds.get(request.url.path)
        if kind and "watch" not in request.url.query and response.status == 200:
            if "continue" not in request.url.query:
                self._listing[kind] = set()
            self._listed(kind, json.loads(await response.read()))
        return response

    def _listed(self, kind: str, page: Object) -> None:
        """One page of a list."""
        seen = self._listing[kind]
        for item in page["items"]:
            seen.add(Ref(kind, item["metadata"].get("namespace", ""), item["metadata"]["name"]))
            self._cache.put(kind, item)
        if page["metadata"].get("continue"):
            return
        self._cache.retain(kind, self._listing.pop(kind), int(page["metadata"]["resourceVersion"]))
        _LISTS.labels(kind).inc()
        self._unseen.discard(kind)
        if not self._unseen:
            self.synced.set()


def _selector(resource: Resource) -> tuple[str, str, str]:
    return resource.group, resource.version, resource.plural


def _overlook_generators(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """kopf, when it is ended while it is busy, leaves streams half closed, which asyncio reports at length."""
    if "asyncgen" not in context:
        loop.default_exception_handler(context)
