"""The agent: what makes this machine a node, as long as it runs.

    identify -> serve -> register -> { lease, status, pods, certificates } for ever

Each of the four goes on by itself, and tries again what fails. When the agent is stopped, processes go on: the next
agent takes them back. Without the API server they go on, too, as on any node; what changed meanwhile is seen when it
answers again.
"""

import asyncio
import fcntl
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import psutil

from edgemodel.engine.client import Client
from edgemodel.engine.errors import ApiError, Conflict, EngineError, NotFound
from edgemodel.engine.events import Events
from edgemodel.engine.lease import LEASES
from edgemodel.engine.objects import Object, Ref
from edgemodel.node import machine, status
from edgemodel.node.access import NodeAccess
from edgemodel.node.identity import CLIENT_SIGNER, SERVING_SIGNER, Identity
from edgemodel.node.pods import Place, Pod, Surroundings, forget_folder
from edgemodel.node.record import Record
from edgemodel.node.resources import ALL, NODES
from edgemodel.node.room import Refusals, Room
from edgemodel.node.server import Guard, LogFile, NodeServer, NotThere, Usage
from edgemodel.node.settings import BadSettings, Home, Settings
from edgemodel.node.watch import PodWatch

_log = logging.getLogger(__name__)
_LEASE_SECONDS, _RENEW_SECONDS = 40, 10.0
_STATUS_SECONDS, _HEARTBEAT_SECONDS = 10.0, 300.0
_CERTIFICATE_SECONDS = 60.0


class Agent:
    """One node."""

    def __init__(self, settings: Settings, home: Home) -> None:
        self._settings = settings
        self._home = home
        self._authority = home.authority.read_text()
        self._client_identity = Identity(home.client, settings.name)
        self._serving_identity = Identity(home.serving, settings.name)
        self._facts = status.NodeFacts(
            name=settings.name,
            address=settings.address,
            port=settings.port,
            pods=len(settings.addresses),
            reserve=settings.reserve,
        )
        self._pods: dict[str, Pod] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._heartbeat = 0.0
        self._uid = ""

    async def run(self) -> None:
        """Until it is cancelled, or has left the cluster as it was asked to."""
        await self._identify()
        access = NodeAccess(self._settings.server, self._authority, self._home.client)
        async with AsyncExitStack() as stack:
            self._client = await stack.enter_async_context(Client(access, ALL))
            probing = await stack.enter_async_context(
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True))
            )
            self._around = Surroundings(
                client=self._client,
                events=Events(self._client, "edgemodel-node", self._settings.name),
                probing=probing,
                place=Place(
                    self._home.pods, self._settings.address, self._settings.python, self._settings.store_endpoint
                ),
                room=Room(self._settings.addresses, self._allocatable),
                refusals=Refusals(),
            )
            self._keep_room()
            if self._serving_identity.renew_at() is None:
                self._serving_identity.sign_self([self._settings.address])
            server = await stack.enter_async_context(
                NodeServer(
                    self,
                    Guard(self._client, self._settings.name),
                    self._settings.address,
                    self._settings.port,
                    self._home.serving,
                    self._authority,
                )
            )
            watch = PodWatch(access, self._settings.name, self._listed, self._changed)
            _log.info("node %s serves logs at %s:%d", self._settings.name, self._settings.address, self._settings.port)
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(_every(_RENEW_SECONDS, self._renew_lease)),
                    group.create_task(_every(_STATUS_SECONDS, self._tell_status)),
                    group.create_task(_every(_CERTIFICATE_SECONDS, lambda: self._renew_client(access))),
                    group.create_task(_every(_CERTIFICATE_SECONDS, lambda: self._renew_serving(server))),
                    group.create_task(watch.run()),
                ]
                try:
                    await self._until_asked_to_leave()
                finally:
                    ending = [*tasks, *self._tasks.values()]
                    for task in ending:
                        task.cancel()
                    await asyncio.gather(*ending, return_exceptions=True)

    # Who we are

    async def _identify(self) -> None:
        """Gets the first certificate, by the bootstrap token."""
        if self._client_identity.renew_at() is None:
            token = self._home.token.read_text().strip() if self._home.token.exists() else ""
            if not token:
                raise BadSettings(
                    "the node's certificate is missing or has run out: `edgemodel-node join` with a new token"
                )
            access = NodeAccess(self._settings.server, self._authority, token=token)
            async with Client(access, ALL) as client:
                await self._client_identity.obtain(client, CLIENT_SIGNER)
            _log.info("the cluster signed the certificate of system:node:%s", self._settings.name)
        self._home.token.unlink(missing_ok=True)

    async def _renew_client(self, access: NodeAccess) -> None:
        if self._client_identity.is_due():
            await self._client_identity.obtain(self._client, CLIENT_SIGNER)
            access.renewed()
            _log.info("the node's certificate was renewed")

    async def _renew_serving(self, server: NodeServer) -> None:
        if self._settings.request_serving_certificate:
            if self._serving_identity.is_self_signed() or self._serving_identity.is_due():
                await self._serving_identity.obtain(self._client, SERVING_SIGNER, [self._settings.address])
                server.renewed()
                _log.info("the cluster signed the certificate of our port")
        elif self._serving_identity.is_due():
            self._serving_identity.sign_self([self._settings.address])
            server.renewed()

    # The node

    async def _renew_lease(self) -> None:
        await self._client.apply(
            {
                "apiVersion": LEASES.api_version,
                "kind": LEASES.kind,
                "metadata": {"namespace": "kube-node-lease", "name": self._settings.name} | self._owned(),
                "spec": {
                    "holderIdentity": self._settings.name,
                    "leaseDurationSeconds": _LEASE_SECONDS,
                    "renewTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                },
            }
        )

    def _owned(self) -> Object:
        """The Lease goes when the node does."""
        owner = {"apiVersion": NODES.api_version, "kind": NODES.kind, "name": self._settings.name, "uid": self._uid}
        return {"ownerReferences": [owner]} if self._uid else {}

    async def _tell_status(self) -> None:
        """Registers the node if it is not there; writes its status when it changed, else now and then."""
        seen = machine.look(self._home.folder)
        node = await self._registered(seen)
        self._uid = node["metadata"]["uid"]
        before = node.get("status", {})
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        wanted = status.node_status(self._facts, seen, before, now, self._home.leaving.exists())
        due = time.monotonic() >= self._heartbeat
        if due or status.node_differs(before, wanted):
            metadata = {"name": self._settings.name}
            await self._client.apply_status(
                {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "status": wanted}
            )
            self._heartbeat = time.monotonic() + _HEARTBEAT_SECONDS

    async def _registered(self, seen: machine.Machine) -> Object:
        ref = Ref(NODES.kind, "", self._settings.name)
        try:
            node = await self._client.get(ref)
        except NotFound:
            _log.info("registering node %s", self._settings.name)
            try:
                return await self._client.create(status.node_object(self._facts, seen))
            except Conflict:
                node = await self._client.get(ref)
        labels = status.node_labels(self._facts, seen)
        if labels.items() <= node["metadata"].get("labels", {}).items():
            return node
        return await self._client.merge(ref, {"metadata": {"labels": labels}})

    def _allocatable(self) -> int | None:
        return status.allocatable_memory(self._facts, machine.look(self._home.folder))

    async def _until_asked_to_leave(self) -> None:
        """`edgemodel-node leave` asks by a file: pods go as if a person had deleted them, and none comes any more."""
        await _until(self._home.leaving.exists)
        _log.info("leaving the cluster")
        await _again_and_again(self._cordon)
        await _until(lambda: not self._pods)
        await _again_and_again(self._tell_status)

    async def _cordon(self) -> None:
        await self._client.merge(Ref(NODES.kind, "", self._settings.name), {"spec": {"unschedulable": True}})
        for pod in self._pods.values():
            await self._client.delete(pod.ref, uid=pod.object["metadata"]["uid"])

    # The pods

    def _keep_room(self) -> None:
        """What runs from before has its addresses and its memory, also before the API server has said anything."""
        for folder in _folders(self._home):
            if record := Record.read(folder):
                self._around.room.keep(record)

    def _listed(self, pods: list[Object]) -> None:
        for pod in pods:
            self._changed(pod, deleted=False)
        found = {pod["metadata"]["uid"] for pod in pods}
        for uid, known in self._pods.items():
            if uid not in found:
                known.gone()
        for folder in _folders(self._home):
            if folder.name not in self._pods:
                _log.info("removing what is left of pod %s, which is no more", folder.name)
                forget_folder(folder)
                self._around.room.give_back(folder.name)

    def _changed(self, pod: Object, deleted: bool) -> None:
        uid = pod["metadata"]["uid"]
        known = self._pods.get(uid)
        if deleted:
            if known:
                known.gone()
        elif known:
            known.changed(pod)
        else:
            self._pods[uid] = new = Pod(pod, self._around)
            self._tasks[uid] = asyncio.create_task(self._care_for(uid, new))

    async def _care_for(self, uid: str, pod: Pod) -> None:
        await pod.run()
        del self._pods[uid], self._tasks[uid]

    # What the server asks

    def log(self, namespace: str, pod: str, container: str, previous: bool) -> LogFile:
        """A container's log. Raises NotThere."""
        for each in self._pods.values():
            if each.ref[1:] == (namespace, pod):
                return each.log(container, previous)
        raise NotThere(f"pod {namespace}/{pod} is not on this node")

    def usage(self) -> Iterator[Usage]:
        """What containers take."""
        for pod in self._pods.values():
            yield from pod.usage()

    def machine_usage(self) -> tuple[float, int]:
        """Seconds of CPU and bytes of memory of all that runs on the machine."""
        times, memory = psutil.cpu_times(), psutil.virtual_memory()
        return times.user + times.system, int(memory.total - memory.available)


def _folders(home: Home) -> list[Path]:
    return list(home.pods.iterdir()) if home.pods.is_dir() else []


async def _every(seconds: float, what: Callable[[], Awaitable[None]]) -> None:
    """Does it for ever; what fails is done again at the next time, and said once."""
    said = ""
    while True:
        problem = ""
        try:
            await what()
        except (EngineError, OSError) as error:
            problem = str(error)
            if problem != said:
                _log.warning("%s", problem)
        said = problem
        await asyncio.sleep(seconds)


async def _until(holds: Callable[[], bool]) -> None:
    while True:
        if holds():
            return
        await asyncio.sleep(0.5)


async def _again_and_again(what: Callable[[], Awaitable[None]]) -> None:
    """Does it until it is done."""
    while True:
        try:
            return await what()
        except ApiError as error:
            _log.warning("%s", error)
            await asyncio.sleep(1)


def has_pods(home: Home) -> bool:
    """Whether there is anything of a pod here."""
    return bool(_folders(home))


def end_all(home: Home) -> None:
    """Ends what runs here, when there is no agent that could ask the API server."""
    for folder in _folders(home):
        forget_folder(folder)


@contextmanager
def alone(home: Home, wait: bool = False) -> Iterator[None]:
    """Holds the folder: two agents would start everything twice. Raises BadSettings, or waits for the other to end."""
    with home.lock.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise BadSettings(f"another agent runs in {home.folder}") from None
        yield
