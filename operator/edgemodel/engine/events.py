"""Kubernetes Events: what a person who describes an object wants to have been told.

Controllers emit on transitions only. This guards against the rest: the same words about the same object are said once
in ten minutes, and of one object at most a few after a burst, as client-go does it. An event that cannot be written is
dropped: it never fails a reconcile. `edgemodel_events_total` counts both.
"""

import logging
import time
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from prometheus_client import Counter

from edgemodel.engine.client import Client
from edgemodel.engine.errors import ApiError
from edgemodel.engine.objects import Object, Ref, Resource

EVENTS = Resource("events.k8s.io", "v1", "events", "Event")

_log = logging.getLogger(__name__)
_BURST = 25
_SECONDS_EACH = 300.0
"""After its burst an object may say one in so many seconds."""
_REPEAT_AFTER = 600.0
_REASON = 128
_NOTE = 1024

_EVENTS = Counter("edgemodel_events", "Events by what became of them: written, dropped (too many), failed", ["result"])


@dataclass
class _Allowance:
    """What an object may still say."""

    left: float
    counted_at: float

    def take(self, now: float) -> bool:
        """Whether it may say one more now."""
        self.left = min(_BURST, self.left + (now - self.counted_at) / _SECONDS_EACH)
        self.counted_at = now
        if self.left < 1:
            return False
        self.left -= 1
        return True


class Events:
    """Emits events in the name of one reporting controller and instance."""

    def __init__(self, client: Client, controller: str, instance: str) -> None:
        self._client = client
        self._controller = controller
        self._instance = instance
        self._said: dict[tuple[str, str, str], float] = {}
        self._allowances: OrderedDict[str, _Allowance] = OrderedDict()

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
            _EVENTS.labels("written").inc()
        except ApiError as error:
            _EVENTS.labels("failed").inc()
            _log.warning("could not write an event of %s: %s", Ref.of(obj), error)

    def _may_say(self, words: tuple[str, str, str]) -> bool:
        now = time.monotonic()
        while self._said and next(iter(self._said.values())) < now - _REPEAT_AFTER:
            del self._said[next(iter(self._said))]
        if words in self._said:
            return False
        if not self._allowance(words[0], now).take(now):
            _EVENTS.labels("dropped").inc()
            _log.warning("event dropped, for its object has had %d: %s: %s", _BURST, words[1], words[2])
            return False
        self._said[words] = now
        return True

    def _allowance(self, uid: str, now: float) -> _Allowance:
        """The object's. Those not asked for until they were whole again are forgotten."""
        while self._allowances and next(iter(self._allowances.values())).counted_at < now - _BURST * _SECONDS_EACH:
            self._allowances.popitem(last=False)
        self._allowances.setdefault(uid, _Allowance(_BURST, now))
        self._allowances.move_to_end(uid)
        return self._allowances[uid]
