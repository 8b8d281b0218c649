"""Kubernetes Events: what a person who describes an object wants to have been told.

Controllers emit on transitions only. This guards against the rest: the same words about the same object are said once
in ten minutes, and all objects together say at most a few a second after a burst. An event that cannot be written is
dropped: it never fails a reconcile.
"""

import logging
import time
import uuid
from datetime import UTC, datetime
from typing import Literal

from edgemodel.engine.client import Client
from edgemodel.engine.errors import ApiError
from edgemodel.engine.objects import Object, Ref, Resource

EVENTS = Resource("events.k8s.io", "v1", "events", "Event")

_log = logging.getLogger(__name__)
_BURST = 100
_PER_SECOND = 5.0
_REPEAT_AFTER = 600.0
_REASON = 128
_NOTE = 1024


class Events:
    """Emits events in the name of one reporting controller and instance."""

    def __init__(self, client: Client, controller: str, instance: str) -> None:
        self._client = client
        self._controller = controller
        self._instance = instance
        self._said: dict[tuple[str, str, str], float] = {}
        self._tokens = float(_BURST)
        self._counted_at = time.monotonic()

    async def emit(
        self,
        obj: Object,
        reason: str,
        message: str,
        *,
        kind: Literal["Normal", "Warning"] = "Normal",
        action: str = "Reconcile",
    ) -> None:
        """Says of an object, with a reason in one word and a sentence, what has just changed."""
        if not self._may_say((obj["metadata"]["uid"], reason, message)):
            _log.debug("event dropped: %s: %s", reason, message)
            return
        metadata = obj["metadata"]
        namespace = metadata.get("namespace", "default")
        event = {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"name": f"{metadata['name'][:200]}.{uuid.uuid4().hex[:16]}", "namespace": namespace},
            "eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "type": kind,
            "reason": reason[:_REASON],
            "note": message[:_NOTE],
            "action": action,
            "reportingController": self._controller,
            "reportingInstance": self._instance[:128],
            "regarding": {
                "apiVersion": obj["apiVersion"],
                "kind": obj["kind"],
                "namespace": namespace if "namespace" in metadata else "",
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
        }
        try:
            await self._client.create(event)
        except ApiError as error:
            _log.warning("could not write an event of %s: %s", Ref.of(obj), error)

    def _may_say(self, words: tuple[str, str, str]) -> bool:
        now = time.monotonic()
        while self._said and next(iter(self._said.values())) < now - _REPEAT_AFTER:
            del self._said[next(iter(self._said))]
        self._tokens = min(_BURST, self._tokens + (now - self._counted_at) * _PER_SECOND)
        self._counted_at = now
        if words in self._said or self._tokens < 1:
            return False
        self._tokens -= 1
        self._said[words] = now
        return True
