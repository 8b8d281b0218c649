"""Puts it together: informer, cache, queues, reconcilers, lease, health; starts them in order and stops them in order.

Start: health answers; the watched kinds are there; all of them are listed; the lease is ours; only then does any
reconcile run. A standby is the same, waiting for the lease with a warm cache.
Stop: no key is handed out any more; running reconciles end; the lease is released; the watches close.
If the informer or the lease fails, the process ends with an error, and Kubernetes starts it anew: no state is mended.
"""

import asyncio
import logging
import secrets
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from prometheus_client import Counter, Gauge, Histogram

from edgemodel.engine import health, logs
from edgemodel.engine.access import Access
from edgemodel.engine.applier import Applier
from edgemodel.engine.cache import Cache, Watch
from edgemodel.engine.client import Client
from edgemodel.engine.errors import ApiError, Conflict, EngineError, Throttled
from edgemodel.engine.events import EVENTS, Events
from edgemodel.engine.informer import Informer
from edgemodel.engine.lease import LEASES, Lease
from edgemodel.engine.objects import Key, Resource
from edgemodel.engine.queue import WorkQueue

Reconcile = Callable[[Key], Awaitable[float | None]]
"""Makes the cluster right for one key. Seconds after which to look again though nothing changes, or None."""

_log = logging.getLogger(__name__)
_STUCK = 600.0  # seconds after which a reconcile that doesn't end is a reason to be restarted

_RECONCILES = Counter("edgemodel_reconcile", "Reconciles by how they ended", ["controller", "result"])
_DURATION = Histogram(
    "edgemodel_reconcile_duration_seconds",
    "How long a reconcile took",
    ["controller"],
    buckets=(1e-3, 5e-3, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60),
)
_LEADING = Gauge("edgemodel_leading", "Whether this replica leads")


@dataclass(frozen=True, slots=True)
class Options:
    """What differs between installations."""

    component: str = "edgemodel"
    """Who reports events."""
    lease: str = ""
    """The name of the lease that makes one of several replicas lead. Empty: there is only one, and no lease."""
    namespace: str = ""
    """Where the lease is. Empty: where this process runs."""
    lease_seconds: int = 15
    """How long the others wait for a leader that died."""
    workers: int = 8
    """Reconciles at a time, for each controller."""
    port: int = 8080
    """Where health and metrics are served."""
    drain_seconds: float = 8.0
    """How long running reconciles may take to end on a graceful stop; less than the lease lasts unrenewed."""


class Runtime:
    """An operator's process: make it, build reconcilers on its `cache`, `applier` and `events`, give them to `main`."""

    def __init__(
        self, watches: Sequence[Watch], resources: Sequence[Resource] = (), options: Options = Options()
    ) -> None:
        self._options = options
        self._watches = watches
        self._access = Access()
        self._identity = f"{socket.gethostname()}-{secrets.token_hex(4)}"
        self._queues: dict[str, WorkQueue[Key]] = {}
        self._work: asyncio.Task[None] | None = None
        self.client = Client(self._access, [*(watch.resource for watch in watches), *resources, EVENTS, LEASES])
        """Reads and writes past the cache, also objects of `resources`, which are not watched."""
        self.cache = Cache(watches, self.wake)
        """What is, as last seen."""
        self.applier = Applier(self.client, self.cache)
        """Writes what differs."""
        self.events = Events(self.client, options.component, self._identity)
        """Tells people."""
        self._informer = Informer(self._access, self.client, watches, self.cache)

    def main(self, reconcilers: Mapping[str, Reconcile]) -> None:
        """Runs until SIGTERM or SIGINT, with JSON logs. Exits with 1 if it could not go on."""
        logs.configure()
        failed = False
        try:
            asyncio.run(self.run(reconcilers))
        except* EngineError as errors:
            failed = True
            for error in errors.exceptions:
                _log.critical("%s", error)
        if failed:  # not before: what is raised in `except*` is printed as a bug is
            sys.exit(1)

    def wake(self, key: Key) -> None:
        """Wants a key reconciled soon."""
        self._queues[key.controller].add(key)

    def stop(self) -> None:
        """Begins a graceful stop."""
        if self._work and not self._work.cancelling():
            self._work.cancel()

    async def run(self, reconcilers: Mapping[str, Reconcile]) -> None:
        """Runs until `stop` or a signal; raises what made it end otherwise."""
        self._queues = {
            name: WorkQueue(name, partial(self._reconcile, reconcile), self._options.workers)
            for name, reconcile in reconcilers.items()
        }
        async with health.serve(self._options.port, self._alive, self._ready) as port, self.client:
            _log.info("serving health and metrics on port %d", port)
            self._work = asyncio.create_task(self._inform_and_lead())
            self._catch_signals()
            try:
                await asyncio.wait([self._work])
            finally:
                self.stop()
                await asyncio.wait([self._work])
        if not self._work.cancelled():
            self._work.result()
        _log.info("stopped")

    async def _inform_and_lead(self) -> None:
        await self._informer.find_definitions()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._informer.run(started=self._catch_signals))  # kopf takes the signals, too
            group.create_task(self._lead())

    async def _lead(self) -> None:
        """Reconciles once all is known and the lease is ours. Ends only by an exception."""
        await self._informer.synced.wait()
        _log.info("all watched resources are listed")
        lease = self._lease()
        try:
            if lease:
                await lease.acquire()
            _LEADING.set(1)
            for queue in self._queues.values():
                queue.start()
            await (lease.keep() if lease else asyncio.Event().wait())
        finally:
            _LEADING.set(0)
            patience = self._options.drain_seconds if lease is None or lease.held else 0
            ended = await asyncio.gather(*(queue.drain(patience) for queue in self._queues.values()))
            if not all(ended):
                _log.warning("reconciles were cut off after %.0f s", patience)
            if lease:
                await lease.release()

    def _lease(self) -> Lease | None:
        options = self._options
        if not options.lease:
            return None
        namespace = options.namespace or self._access.namespace
        return Lease(self.client, namespace, options.lease, self._identity, options.lease_seconds)

    async def _reconcile(self, reconcile: Reconcile, key: Key) -> None:
        """One run of a reconciler. Whatever it raises decides when it runs again, and nothing else."""
        queue = self._queues[key.controller]
        logs.current_key.set(key)  # of this task alone
        started = time.monotonic()
        try:
            again, result = await reconcile(key), "done"
        except Throttled as error:
            _log.warning("throttled: %s", error)
            again, result = error.after, "throttled"
        except Exception as error:
            again, result = None, "error"
            self._failed(error, queue.add_rate_limited(key))
        if result == "done":
            queue.forget(key)
        if again is not None:
            queue.add_after(key, again)
        _RECONCILES.labels(key.controller, result).inc()
        _DURATION.labels(key.controller).observe(time.monotonic() - started)

    def _failed(self, error: Exception, delay: float) -> None:
        """Says it as loud as it is: a lost race is no fault, the API server explains itself, the rest are bugs."""
        match error:
            case Conflict():
                _log.info("again in %.2f s: %s", delay, error)
            case ApiError():
                _log.warning("again in %.2f s: %s", delay, error)
            case _:
                _log.error("again in %.2f s: %s", delay, error, exc_info=error)

    def _alive(self) -> str:
        stuck = [name for name, queue in self._queues.items() if queue.longest_running() > _STUCK]
        return f"stuck: {', '.join(stuck)}" if stuck else ""

    def _ready(self) -> str:
        if self._informer.missing:
            return f"not installed in this cluster: {', '.join(self._informer.missing)}"
        return "" if self._informer.synced.is_set() else "not all watched resources are listed yet"

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
