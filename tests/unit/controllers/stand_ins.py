"""The controllers on the engine's real cache and applier, over stand-ins for the API server and the store.

What they prove is which writes the controllers ask for, and in which order. How a real API server answers is proven in
tests/apiserver, where nothing is stood in for.
"""

import asyncio
import copy
from datetime import UTC, datetime, timedelta
from typing import Any

from edgemodel.api.artifact import PerformanceReport, Progress
from edgemodel.controllers.context import Context
from edgemodel.controllers.edgemodel import EdgeModelController
from edgemodel.controllers.modelartifact import ModelArtifactController
from edgemodel.controllers.node import NodeController
from edgemodel.controllers.resources import (
    ARTIFACT_CONTROLLER,
    MODEL_CONTROLLER,
    NODE_CONTROLLER,
    Watches,
    artifact_key,
)
from edgemodel.engine.applier import Applier
from edgemodel.engine.cache import Cache
from edgemodel.engine.client import Client, Propagation
from edgemodel.engine.errors import ApiError, NotFound
from edgemodel.engine.events import Events
from edgemodel.engine.objects import Key, Object, Ref
from edgemodel.engine.runtime import Reconcile
from edgemodel.store.artifacts import ArtifactStore, Published, Removed
from edgemodel.store.errors import StoreError
from edgemodel.store.manifest import File, Manifest
from tests.unit.core.samples import OTHER_DIGEST, SETTINGS, URI, quality, recipe, resolved, runtime

NAMESPACE = "retail"


class StandInClient(Client):
    """An API server in a dictionary. It knows finalizers and versions, and nothing of defaults or validation."""

    def __init__(self) -> None:
        self.objects: dict[Ref, Object] = {}
        self.log: list[str] = []
        """The writes, in order."""
        self.refusals: dict[str, ApiError] = {}
        """The first words of a write -> the error that answers it."""
        self.version = 0

    def stored(self, obj: Object) -> Object:
        """Takes an object in as its new version."""
        ref = Ref.of(obj)
        before = self.objects.get(ref, {"metadata": {"uid": f"uid-{self.version}", "generation": 1}})
        self.version += 1
        found = copy.deepcopy(obj)
        found["metadata"] = {**before["metadata"], **found["metadata"], "resourceVersion": str(self.version)}
        self.objects[ref] = found
        return copy.deepcopy(found)

    def _write(self, verb: str, ref: Ref) -> None:
        line = f"{verb} {ref.kind} {ref.name}"
        for start, error in self.refusals.items():
            if line.startswith(start):
                raise error
        self.log.append(line)

    async def get(self, ref: Ref) -> Object:
        if ref not in self.objects:
            raise NotFound(404, "NotFound", str(ref))
        return copy.deepcopy(self.objects[ref])

    async def create(self, obj: Object) -> Object:
        if obj["kind"] != "Event":
            raise AssertionError("only events are created")
        self.log.append(f"event {obj['type']} {obj['reason']}")
        return obj

    async def apply(self, obj: Object) -> Object:
        ref = Ref.of(obj)
        self._write("apply", ref)
        before = self.objects.get(ref, {})
        return self.stored({**before, **obj})

    async def apply_status(self, obj: Object) -> Object:
        ref = Ref.of(obj)
        self._write("status", ref)
        return self.stored({**self.objects[ref], "status": obj["status"]})

    async def merge(self, ref: Ref, patch: Object) -> Object:
        self._write("merge", ref)
        obj = copy.deepcopy(self.objects[ref])
        for name, value in patch["metadata"].items():
            if isinstance(value, dict):
                merged = {**obj["metadata"].get(name, {}), **value}
                obj["metadata"][name] = {key: item for key, item in merged.items() if item is not None}
            else:
                obj["metadata"][name] = value
        if "deletionTimestamp" in obj["metadata"] and not obj["metadata"].get("finalizers"):
            return self.objects.pop(ref)
        return self.stored(obj)

    async def delete(
        self, ref: Ref, uid: str | None = None, propagation: Propagation = "Background", grace: int | None = None
    ) -> Object | None:
        self._write(f"delete {propagation}" if propagation != "Background" else "delete", ref)
        obj = self.objects[ref]
        if obj["metadata"].get("finalizers") or propagation == "Foreground":
            metadata = {**obj["metadata"], "deletionTimestamp": "2026-01-02T03:04:05Z"}
            return self.stored({**obj, "metadata": metadata})
        self.version += 1
        del self.objects[ref]
        return None


class StandInStore(ArtifactStore):
    """An object store that holds what a test says."""

    def __init__(self, log: list[str]) -> None:
        self._log = log
        self.published: Manifest | None = None
        self.whole = True
        self.progress: Progress | None = None
        self.performance: PerformanceReport | None = None
        self.failure: StoreError | None = None

    def _ask(self) -> None:
        if self.failure:
            raise self.failure

    def add_reference(self, key: str, owner: str) -> None:
        self._ask()
        self._log.append(f"store reference {owner}")

    def read_manifest(self, key: str, digest: str | None = None) -> Published | None:
        self._ask()
        return Published(self.published, OTHER_DIGEST, "etag") if self.published else None

    def is_whole(self, manifest: Manifest) -> bool:
        return self.whole

    def read_progress(self, key: str) -> Progress | None:
        self._ask()
        return self.progress

    def read_performance(self, key: str) -> PerformanceReport | None:
        self._ask()
        return self.performance

    def remove(self, key: str, owner: str) -> Removed:
        self._ask()
        self._log.append(f"store remove {owner}")
        return Removed(artifact=True, blobs=frozenset())


def manifest(key: str) -> Manifest:
    """What the pipeline publishes."""
    file = File(path="model.gguf", bytes=100, sha256=OTHER_DIGEST, chunk_bytes=8 << 20, chunks=[OTHER_DIGEST])
    return Manifest(
        key=key, format="gguf", files=[file], entrypoint="model.gguf", recipe=recipe(), source=resolved(),
        source_uri=URI, quality=quality(), baseline_bytes=250, tools={},
    )  # fmt: skip


class World:
    """A cluster of one x86-64 node and one runtime, and the controllers."""

    def __init__(self) -> None:
        self.client = StandInClient()
        self.log = self.client.log
        self.store = StandInStore(self.log)
        self.woken: list[Key] = []
        watches = Watches(self._forget)
        self.cache = Cache(watches.all, self.woken.append)
        watches.cache = self.cache
        self.context = Context(
            cache=self.cache,
            client=self.client,
            applier=Applier(self.client, self.cache),
            events=Events(self.client, "edgemodel", "test"),
            store=self.store,
            settings=SETTINGS,
            wake=lambda namespace, name: self.woken.append(artifact_key(namespace, name)),
        )
        self._reconcilers: dict[str, Reconcile] = {
            MODEL_CONTROLLER: EdgeModelController(self.context).reconcile,
            ARTIFACT_CONTROLLER: ModelArtifactController(self.context).reconcile,
            NODE_CONTROLLER: NodeController(self.context).reconcile,
        }
        self.put("EdgeRuntime", runtime().spec.dump(), name="llamacpp", namespace="")
        self.put("HardwareClass", {"architectures": ["amd64"]}, name="x86-64", namespace="")
        labels = {"kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux"}
        self.put("Node", {}, name="n1", namespace="", labels=labels)

    def _forget(self) -> None:
        if hasattr(self, "context"):
            self.context.forget_landscape()

    def put(self, kind: str, spec: Object, *, name: str, namespace: str = NAMESPACE, status: Object | None = None,
            **metadata: Any) -> Object:  # fmt: skip
        """Someone else writes an object, and the informer sees it."""
        place = {"name": name} | ({"namespace": namespace} if namespace else {})
        obj: Object = {"kind": kind, "metadata": place | metadata, "spec": spec}
        return self.see(obj | ({"status": status} if status is not None else {}))

    def see(self, obj: Object) -> Object:
        """The informer sees an object that is written."""
        found = self.client.stored(obj)
        self.cache.put(obj["kind"], copy.deepcopy(found))
        return found

    def change(self, kind: str, name: str, namespace: str = NAMESPACE, **parts: Any) -> Object:
        """Someone changes an object: its status, for example."""
        return self.see({**self.client.objects[Ref(kind, namespace, name)], **parts})

    def lose(self, kind: str, name: str, namespace: str = NAMESPACE) -> None:
        """An object goes, and the informer sees it."""
        gone = self.client.objects.pop(Ref(kind, namespace, name))
        self.client.version += 1
        self.cache.remove(kind, {**gone, "metadata": {**gone["metadata"], "resourceVersion": str(self.client.version)}})

    def all(self, kind: str) -> list[Object]:
        """All objects of a kind."""
        return [obj for ref, obj in self.client.objects.items() if ref.kind == kind]

    def one(self, kind: str) -> Object:
        """The only object of a kind."""
        (found,) = self.all(kind)
        return found

    def reconcile(self, controller: str, name: str, namespace: str = NAMESPACE) -> float | None:
        """One reconcile. When to look again."""

        async def run() -> float | None:
            return await self._reconcilers[controller](Key(controller, namespace, name))

        return asyncio.run(run())

    def writes(self) -> list[str]:
        """The writes since this was last asked."""
        found = self.log.copy()
        self.log.clear()
        return found


def ago(seconds: float) -> str:
    """A moment past, as the API writes it."""
    return (datetime.now(UTC) - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
