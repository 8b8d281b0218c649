"""Our pods, as the API server has them: a list, then what changes, for ever."""

import asyncio
import json
import logging
from collections.abc import Callable

import aiohttp

from edgemodel.engine.client import Access
from edgemodel.engine.errors import EngineError
from edgemodel.engine.objects import Object
from edgemodel.node.resources import PODS

_log = logging.getLogger(__name__)
_SECONDS = 300
"""For how long one watch lasts."""
_LIMIT = 4 << 20
"""Bytes of one object, at the most."""
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0


class PodWatch:
    """Tells of the pods that are bound to a node: all of them whenever they are listed, then each that changes."""

    def __init__(
        self, access: Access, node: str, listed: Callable[[list[Object]], None], changed: Callable[[Object, bool], None]
    ) -> None:
        self._access = access
        self._query = {"fieldSelector": f"spec.nodeName={node}"}
        self._listed = listed
        self._changed = changed

    async def run(self) -> None:
        """Goes on until it is cancelled; what fails is tried again."""
        wait = _FIRST_WAIT
        while True:
            try:
                async with self._access.session() as session:
                    version = await self._list(session)
                    wait = _FIRST_WAIT
                    while True:
                        version = await self._watch(session, version)
            except (aiohttp.ClientError, TimeoutError, ValueError, EngineError) as error:
                _log.warning("cannot watch pods: %s", error or type(error).__name__)
            await asyncio.sleep(wait)
            wait = min(wait * 2, _LONGEST_WAIT)

    async def _list(self, session: aiohttp.ClientSession) -> str:
        timeout = aiohttp.ClientTimeout(total=30)
        async with session.get(self._access.server + PODS.path(), params=self._query, timeout=timeout) as answer:
            if answer.status != 200:
                raise EngineError(f"listing answered {answer.status}: {(await answer.text())[:500]}")
            found = await answer.json()
        self._listed([{"apiVersion": "v1", "kind": "Pod", **item} for item in found["items"]])
        return str(found["metadata"]["resourceVersion"])

    async def _watch(self, session: aiohttp.ClientSession, version: str) -> str:
        query = self._query | {
            "watch": "1",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(_SECONDS),
        }
        # A server that is gone without a word sends no bookmarks either: they come every minute.
        timeout = aiohttp.ClientTimeout(total=_SECONDS + 30, sock_read=150)
        async with session.get(
            self._access.server + PODS.path(), params=query, timeout=timeout, read_bufsize=_LIMIT
        ) as answer:
            if answer.status != 200:
                raise EngineError(f"watching answered {answer.status}: {(await answer.text())[:500]}")
            async for line in answer.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise EngineError(f"the watch ended: {event['object'].get('message')}")
                version = event["object"]["metadata"]["resourceVersion"]
                if event["type"] != "BOOKMARK":
                    self._changed(event["object"], event["type"] == "DELETED")
        return version
