"""One replica leads: a `coordination.k8s.io` Lease says which.

As in client-go, clocks are not compared between machines: a lease has run out when its record has not changed for its
duration *as seen from here*. The holder gives up earlier than that, and its process must end then. The official client
has such a thing for its blocking half only.
"""

import asyncio
import logging
import time
from datetime import UTC, datetime

from edgemodel.engine.client import Client
from edgemodel.engine.errors import ApiError, Conflict, LeaseLost, NotFound
from edgemodel.engine.objects import Object, Ref, Resource

LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")

_log = logging.getLogger(__name__)


class Lease:
    """A candidate for one lease. `duration` is how long a dead holder keeps others waiting, in whole seconds."""

    def __init__(self, client: Client, namespace: str, name: str, identity: str, duration: int = 15) -> None:
        self._client = client
        self._ref = Ref(LEASES.kind, namespace, name)
        self._identity = identity
        self._duration = duration
        self._version = ""
        self._renewed = 0.0
        self._transitions = 0
        self.held = False
        """Whether this process leads."""

    async def acquire(self) -> None:
        """Waits until the lease is ours."""
        seen, since = "", 0.0
        while not self.held:
            try:
                lease = await self._client.get(self._ref)
                if (version := lease["metadata"]["resourceVersion"]) != seen:
                    seen, since = version, time.monotonic()
                spec = lease.get("spec", {})
                waited = time.monotonic() - since
                if not spec.get("holderIdentity") or waited > spec.get("leaseDurationSeconds", self._duration):
                    self._version, self._transitions = version, spec.get("leaseTransitions", 0) + 1
                    await self._write()
            except NotFound:
                await self._create()
            except Conflict:
                continue  # somebody was faster
            except ApiError as error:
                _log.warning("cannot read or take the lease %s: %s", self._ref, error)
            if not self.held:
                await asyncio.sleep(self._duration / 7.5)
        _log.info("leading as %s", self._identity)

    async def keep(self) -> None:
        """Renews the lease for ever. Raises LeaseLost when it cannot: nothing may be written from then on."""
        while True:
            await asyncio.sleep(self._duration / 3)
            left = self._renewed + self._duration * 2 / 3 - time.monotonic()
            try:
                async with asyncio.timeout(left):
                    await self._renew()
            except (TimeoutError, ApiError) as error:
                self.held = False
                raise LeaseLost(
                    f"lost the lease {self._ref}: {str(error) or 'the API server did not answer in time'}"
                ) from error

    async def release(self) -> None:
        """Lets another take over at once."""
        if not self.held:
            return
        self.held = False
        try:
            await self._patch({"holderIdentity": "", "leaseDurationSeconds": 1})
        except ApiError as error:
            _log.warning("could not release the lease %s: %s", self._ref, error)

    async def _renew(self) -> None:
        while True:
            try:
                return await self._write()
            except Conflict:
                lease = await self._client.get(self._ref)
                if lease.get("spec", {}).get("holderIdentity") != self._identity:
                    raise
                self._version = lease["metadata"]["resourceVersion"]
            except ApiError as error:
                if error.code and error.code < 500 and error.code != 429:
                    raise
                _log.warning("could not renew the lease %s: %s", self._ref, error)
                await asyncio.sleep(1)

    async def _create(self) -> None:
        metadata = {"namespace": self._ref.namespace, "name": self._ref.name}
        lease = {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": metadata}
        try:
            created = await self._client.create(lease)
        except ApiError as error:
            _log.warning("cannot create the lease %s: %s", self._ref, error)
        else:
            self._version = created["metadata"]["resourceVersion"]

    async def _write(self) -> None:
        """Writes that we hold it, unless another write came since we looked."""
        now = time.monotonic()
        await self._patch(
            {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": self._duration,
                "leaseTransitions": self._transitions,
                "renewTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            }
        )
        self._renewed, self.held = now, True

    async def _patch(self, spec: Object) -> None:
        lease = await self._client.merge(self._ref, {"metadata": {"resourceVersion": self._version}, "spec": spec})
        self._version = lease["metadata"]["resourceVersion"]
