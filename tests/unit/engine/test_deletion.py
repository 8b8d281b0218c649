import asyncio
from typing import Any, cast

from edgemodel.engine.applier import Applier
from edgemodel.engine.cache import Cache, Watch
from edgemodel.engine.client import Client
from edgemodel.engine.objects import Ref, Resource

POD = Resource("", "v1", "pods", "Pod")
REF = Ref("Pod", "retail", "p")


class Answers:
    """A stand-in for the client: one answer to a deletion."""

    def __init__(self, left: dict[str, Any] | None) -> None:
        self._left = left

    async def delete(self, ref: Ref, uid: str, propagation: str) -> dict[str, Any] | None:
        assert (ref, uid) == (REF, "u")
        return self._left


def deleted(**answer: str) -> dict[str, Any] | None:
    """What the cache has of a pod after a deletion that was answered so."""
    cache = Cache([Watch(POD)])
    metadata = {"name": "p", "namespace": "retail", "uid": "u"}
    cache.put("Pod", {"metadata": metadata | {"resourceVersion": "5"}})
    left = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata | answer} if answer else None
    asyncio.run(Applier(cast(Client, Answers(left)), cache).delete(REF))
    return cache.get(*REF)


def test_object_that_must_be_finalized_stays_on_its_way_out() -> None:
    kept = deleted(resourceVersion="6", deletionTimestamp="2026-01-01T00:00:00Z")
    assert kept is not None
    assert kept["metadata"]["deletionTimestamp"]


def test_object_that_is_gone_at_once_is_forgotten() -> None:
    assert deleted() is None


def test_object_that_somebody_else_removed_at_the_same_moment_is_forgotten() -> None:
    """The API server then answers with a state that has no version."""
    assert deleted(deletionTimestamp="2026-01-01T00:00:00Z") is None
