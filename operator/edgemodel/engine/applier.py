"""Writes what is to be where it is not so, and lets the cache know at once."""

from edgemodel.engine.cache import Cache
from edgemodel.engine.client import Client, Propagation
from edgemodel.engine.desired import needs_apply, needs_status, stamped
from edgemodel.engine.errors import NotFound
from edgemodel.engine.objects import Object, Ref


class Applier:
    """What controllers write with. Each method writes at most once, and not at all if nothing changes."""

    def __init__(self, client: Client, cache: Cache) -> None:
        self._client = client
        self._cache = cache

    async def observe(self, ref: Ref) -> Object | None:
        """One object: from the cache if its kind is watched, else from the API server."""
        if ref.kind in self._cache:
            return self._cache.get(*ref)
        try:
            return await self._client.get(ref)
        except NotFound:
            return None

    async def ensure(self, desired: Object) -> Object:
        """Makes an object as desired. The object as it is now."""
        observed = await self.observe(Ref.of(desired))
        if observed is not None and not needs_apply(desired, observed):
            return observed
        return self._seen(await self._client.apply(stamped(desired)))

    async def ensure_status(self, observed: Object, status: Object) -> Object:
        """Makes the status of an observed object this one, whole. The object as it is now."""
        if not needs_status(status, observed.get("status")):
            return observed
        ref = Ref.of(observed)
        metadata = {"name": ref.name} | ({"namespace": ref.namespace} if ref.namespace else {})
        patch = {"apiVersion": observed["apiVersion"], "kind": ref.kind, "metadata": metadata, "status": status}
        return self._seen(await self._client.apply_status(patch))

    async def delete(self, ref: Ref, uid: str | None = None, propagation: Propagation = "Background") -> None:
        """Deletes an object if it is there and not on its way out; with a uid only that very object."""
        observed = await self.observe(ref)
        if observed is None or "deletionTimestamp" in observed["metadata"]:
            return
        left = await self._client.delete(ref, uid or observed["metadata"]["uid"], propagation)
        # A state without a version is that of an object which somebody else removed at the same moment.
        if left is not None and "resourceVersion" in left["metadata"]:
            self._seen(left)
        elif ref.kind in self._cache:
            self._cache.remove(ref.kind, observed)

    def _seen(self, obj: Object) -> Object:
        if obj["kind"] in self._cache:
            self._cache.put(obj["kind"], obj)
        return obj
