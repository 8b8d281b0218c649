"""What the operator's tests live in: an API server, a store, a stand-in for everybody else, and operators."""

import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import aiohttp
import yaml

from hack.cluster import controlplane
from tests.apiserver.operator.process import ROOT, Nursery, Operator, environment
from tests.apiserver.operator.proxy import Proxy, Writes
from tests.cluster_stand_in import Api, ApiError, Behaviour, Loop, Obj, StandIn, path_of
from tests.s3 import S3, new_bucket, serve

T = TypeVar("T")

CLUSTER = """
apiVersion: edgemodel.dev/v1alpha1
kind: HardwareClass
metadata: {name: x86-64}
spec: {architectures: [amd64], priority: 10}
---
apiVersion: edgemodel.dev/v1alpha1
kind: EdgeRuntime
metadata: {name: llamacpp}
spec:
  format: gguf
  schemes: [{name: Q4_K_M, bitsPerWeight: "4.9", calibrated: true}, {name: Q8_0, bitsPerWeight: "8.5"}]
  defaultScheme: Q4_K_M
  hardware: [{class: x86-64, preference: 50}]
  pipeline: {image: "pipeline:1", toolchain: llamacpp, version: "0.3.36"}
  serving: {image: "serving:1", args: ["--model", "$(MODEL_FILE)"]}
---
apiVersion: v1
kind: Node
metadata:
  name: node-1
  labels:
    kubernetes.io/arch: amd64
    kubernetes.io/os: linux
    edgemodel.dev/hardware: x86-64
    hardware.edgemodel.dev/x86-64: "true"
"""
"""One node, with the labels that the operator would give it: that is no part of a model's life."""


def edge_model(name: str, namespace: str, **spec: object) -> Obj:
    """An EdgeModel with one variant on the node that is there."""
    return {
        "apiVersion": "edgemodel.dev/v1alpha1",
        "kind": "EdgeModel",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "source": {"uri": "hf://owner/model", "revision": "main"},
            "variants": [{"name": "cpu", "runtime": "llamacpp", "hardware": "x86-64"}],
            **spec,
        },
    }


def condition(obj: Obj | None, kind: str) -> Obj:
    """A condition; empty if there is none."""
    found = (obj or {}).get("status", {}).get("conditions", ())
    return next((item for item in found if item["type"] == kind), {})


def is_settled(obj: Obj | None, kind: str, reason: str | None = None) -> bool:
    """Whether the condition is True for the spec as it is, for this reason."""
    found = condition(obj, kind)
    return bool(
        obj
        and found.get("status") == "True"
        and obj["status"].get("observedGeneration") == obj["metadata"]["generation"]
        and reason in (None, found["reason"])
    )


class World:
    """One for a test session: everything that is shared."""

    def __init__(self, folder: Path, kubeconfig: Path, store: S3) -> None:
        self.folder = folder
        self.kubeconfig = kubeconfig
        self.store = store
        self.loop = Loop()
        self.api = Api(kubeconfig)
        self.loop.call(self.api.__aenter__())
        self.loop.call(self.api.install(ROOT / "crds"))
        for document in yaml.safe_load_all(CLUSTER):
            self.apply(document)
        self.stand_in = StandIn(self.api, store.config)
        self._stop = self.loop.start(self.stand_in.run())
        self.nursery = Nursery(folder)

    def close(self) -> None:
        """Ends what was started."""
        self.nursery.close()
        self._stop()
        self.loop.call(self.api.__aexit__())
        self.loop.close()

    # The API, for code that is no coroutine

    def apply(self, obj: Obj) -> Obj:
        """Server-side apply, as a user."""
        return self.loop.call(self.api.apply(obj))

    def get(self, kind: str, namespace: str, name: str) -> Obj | None:
        """One object."""
        return self.loop.call(self.api.get(kind, namespace, name))

    def all(self, kind: str, namespace: str = "") -> list[Obj]:
        """All of a kind."""
        return self.loop.call(self.api.list(kind, namespace))

    def merge(self, obj: Obj, patch: Obj, subresource: str = "") -> Obj:
        """A merge patch."""
        return self.loop.call(self.api.merge(obj, patch, subresource))

    def delete(self, obj: Obj) -> None:
        """Deletes an object."""
        self.loop.call(self.api.delete(obj))

    def events(self, namespace: str, name: str) -> list[Obj]:
        """The Events about objects of this name."""
        return [event for event in self.all("Event", namespace) if event["regarding"]["name"] == name]

    def is_accepted(self, obj: Obj) -> str:
        """Empty if the API server takes the object; else what it says."""
        path = path_of(obj["kind"], obj["metadata"]["namespace"])
        try:
            self.loop.call(self.api.send("POST", path, obj, dryRun="All"))
        except ApiError as error:
            return str(error)
        return ""

    # Places

    def new_namespace(self, name: str = "") -> str:
        """An empty namespace."""
        name = name or f"t-{uuid.uuid4().hex[:8]}"
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        return name

    def behaviour(self, namespace: str) -> Behaviour:
        """What becomes of the pods there. After a change: `behave`."""
        return self.stand_in.behaviour(namespace)

    def behave(self, namespace: str, **changes: object) -> None:
        """Changes what becomes of the pods there, also of those that are there."""

        def change() -> None:
            for name, value in changes.items():
                setattr(self.stand_in.behaviour(namespace), name, value)
            self.stand_in.settle_again(namespace)

        self.loop.soon(change)

    def narrowed_kubeconfig(self, proxy: Proxy, name: str) -> Path:
        """A kubeconfig that leads through a proxy."""
        file = self.folder / f"{name}.kubeconfig"
        document = {
            "clusters": [{"name": "c", "cluster": {"server": proxy.url}}],
            "users": [{"name": "u", "user": {"token": "none"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "default"}}],
            "current-context": "c",
        }
        file.write_text(json.dumps(document))
        return file

    @contextmanager
    def place(self, name: str = "", **env: str) -> Iterator["Place"]:
        """A namespace and a bucket that one operator has for itself."""
        namespace = self.new_namespace(name)
        bucket = new_bucket(self.store)
        writes = Writes()
        proxy = Proxy(self.api.server, self.api.session, writes, namespace)
        store_proxy = Proxy(str(bucket.config.endpoint), aiohttp.ClientSession, writes)
        self.loop.call(proxy.open())
        self.loop.call(store_proxy.open())
        kubeconfig = self.narrowed_kubeconfig(proxy, namespace)
        place = Place(
            self, namespace, bucket, writes, proxy, store_proxy,
            environment(kubeconfig, bucket.through(store_proxy.url).env, **env),
        )  # fmt: skip
        try:
            yield place
        finally:
            for operator in place.operators:
                operator.kill()
            self.loop.call(proxy.close())
            self.loop.call(store_proxy.close())


@dataclass
class Place:
    """A namespace and a bucket, and whoever works on them."""

    world: World
    namespace: str
    bucket: S3
    writes: Writes
    api_proxy: Proxy
    store_proxy: Proxy
    env: dict[str, str]

    def __post_init__(self) -> None:
        self.operators: list[Operator] = []

    def start(self, kill_at: int = 0) -> Operator:
        """Starts an operator, to be killed at a write."""
        operator = self.world.nursery.start(self.env, self.namespace)
        self.writes.next_life(operator.pid, kill_at)
        self.operators.append(operator)
        return operator

    def get(self, kind: str, name: str) -> Obj | None:
        """One object."""
        return self.world.get(kind, self.namespace, name)

    def all(self, kind: str) -> list[Obj]:
        """All of a kind."""
        return self.world.all(kind, self.namespace)

    def seen(self, kind: str) -> list[Obj]:
        """All of a kind, as the stand-in's watches have shown it: a moment late, but it costs nothing."""
        return self.world.stand_in.objects(kind, self.namespace)

    def complaints(self) -> list[str]:
        """What the operators logged that is a bug."""
        return [line for operator in self.operators for line in operator.complaints()]


def wait(what: str, check: Callable[[], T], timeout: float = 120, pause: float = 0.03) -> T:
    """What `check` returns once it is true."""
    until = time.monotonic() + timeout
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > until:
            raise AssertionError(f"not within {timeout:.0f} s: {what}; it is {found!r}")
        time.sleep(pause)


@contextmanager
def open_world(folder: Path) -> Iterator[World]:
    """All of it, for as long as the block lasts."""
    with controlplane.apiserver(folder / "api") as kubeconfig, serve(folder / "store") as store:
        world = World(folder, kubeconfig, store)
        try:
            yield world
        finally:
            world.close()


class Restarter:
    """Kills an API server of ours, and starts it again."""

    def __init__(self, server: str) -> None:
        port = server.rpartition(":")[2]
        self._pid, self._command = next(
            (int(process.name), command)
            for process in Path("/proc").iterdir()
            if process.name.isdigit()
            and len(command := _command(process)) > 1
            and command[0].endswith("kube-apiserver")
            and f"--secure-port={port}" in command
        )

    @contextmanager
    def down(self) -> Iterator[None]:
        """No API server during the block; another one after it, until the world ends."""
        os.kill(self._pid, signal.SIGKILL)
        yield
        self.process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)  # fmt: skip

    def close(self) -> None:
        """Ends the one that was started."""
        self.process.kill()
        self.process.wait()


def _command(process: Path) -> list[str]:
    try:
        return (process / "cmdline").read_text().rstrip("\0").split("\0")
    except OSError:
        return []
