"""The toy operator as a process, and a client to look at what it does."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from math import nan
from pathlib import Path
from typing import TypeVar

import pytest
import yaml

from edgemodel.engine.access import Access
from edgemodel.engine.client import Client
from edgemodel.engine.errors import NotFound
from edgemodel.engine.lease import LEASES
from edgemodel.engine.objects import Object, Ref, Resource
from hack.cluster.controlplane import free_ports
from tests.apiserver.engine import toy

T = TypeVar("T")

REPOSITORY = Path(__file__).resolve().parents[3]
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
DEFINITIONS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", False)
RESOURCES = (toy.TOYS, toy.DEPLOYMENTS, toy.SERVICES, NAMESPACES, DEFINITIONS, LEASES)
DEFINITION: Object = yaml.safe_load(Path(__file__).with_name("toy.yaml").read_text())


def wait_for(what: Callable[[], T], seconds: float = 60) -> T:
    """What a condition returns once it is true."""
    end = time.monotonic() + seconds
    while not (result := what()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return result


def a_toy(namespace: str, name: str, size: int = 1) -> Object:
    """A Toy to apply."""
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": toy.TOYS.api_version, "kind": toy.TOYS.kind, "metadata": metadata, "spec": {"size": size}}


class Api:
    """One request a call, for tests that are not coroutines."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def do(self, what: Callable[[Client], Awaitable[T]]) -> T:
        """Something with a client."""

        async def go() -> T:
            async with Client(Access(), RESOURCES) as client:
                return await what(client)

        return asyncio.run(go())

    def apply(self, obj: Object) -> Object:
        """Server-side apply."""
        return self.do(lambda client: client.apply(obj))

    def delete(self, kind: str, name: str) -> None:
        """Deletes an object of this test's namespace."""
        self.do(lambda client: client.delete(Ref(kind, self.namespace, name)))

    def toy(self, name: str, size: int) -> Object:
        """Makes a Toy be of a size."""
        return self.apply(a_toy(self.namespace, name, size))

    def find(self, kind: str, name: str) -> Object | None:
        """An object of this test's namespace."""
        try:
            return self.do(lambda client: client.get(Ref(kind, self.namespace, name)))
        except NotFound:
            return None

    def size(self, name: str) -> int | None:
        """How many replicas a Toy's Deployment wants; None if there is none."""
        found = self.find(toy.DEPLOYMENTS.kind, name)
        return found["spec"]["replicas"] if found else None

    def settled(self, name: str) -> bool:
        """Whether a Toy's status speaks of its spec as it is."""
        found = self.find(toy.TOYS.kind, name)
        return bool(found and found.get("status", {}).get("observedGeneration") == found["metadata"]["generation"])


class Operator:
    """The toy operator, running."""

    def __init__(self, log: Path, environment: dict[str, str]) -> None:
        (self._port,) = free_ports(1)
        self._log = log
        paths = os.pathsep.join((str(REPOSITORY / "operator"), str(REPOSITORY)))
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.apiserver.engine.toy"],
                cwd=REPOSITORY,
                env={**os.environ, "PYTHONPATH": paths, "TOY_PORT": str(self._port), **environment},
                stderr=stderr,
            )

    def get(self, path: str) -> tuple[int, str]:
        """An answer of its health server: status and text; 0 while there is none."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def metric(self, pattern: str) -> float:
        """The sum of the samples whose name and labels match; not a number while there is no answer."""
        status, text = self.get("/metrics")
        if status != 200:
            return nan
        lines = text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if re.match(pattern, line))

    def writes(self) -> float:
        """How much it has written, its lease aside."""
        everything = self.metric(r"edgemodel_api_requests_total\{.*verb=\"(create|apply|apply_status|patch|delete)\"")
        return everything - self.metric(r"edgemodel_api_requests_total\{.*resource=\"leases\".*verb=\"(create|patch)\"")

    def writes_of(self, count: float) -> float:
        """How much it has written, once it is so much at least: it counts a write when it has the answer, and by then
        others may have seen what it wrote."""
        wait_for(lambda: self.writes() >= count)
        return self.writes()

    def ready(self) -> bool:
        """Whether it says so."""
        return self.get("/readyz")[0] == 200

    def leading(self) -> bool:
        """Whether it says so."""
        return self.metric("edgemodel_leading") == 1

    def log(self) -> str:
        """What it has logged."""
        return self._log.read_text()

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Sends a signal and waits. The exit status."""
        self.process.send_signal(number)
        return self.process.wait(60)


@pytest.fixture(scope="session")
def toys(kubeconfig: Path) -> None:
    """The definition of Toys, installed."""
    api = Api("default")
    api.apply(DEFINITION)
    wait_for(lambda: api.do(lambda client: client.serves(toy.TOYS)))


@pytest.fixture
def api(toys: None) -> Iterator[Api]:
    """A client, and a namespace for this test alone. Its Toys are gone afterwards: operators see all namespaces."""
    api = Api(f"engine-{uuid.uuid4().hex[:8]}")
    api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": api.namespace}})
    yield api
    api.do(_delete_toys(api.namespace))


def _delete_toys(namespace: str) -> Callable[[Client], Awaitable[None]]:
    async def delete(client: Client) -> None:
        async for found in client.list(toy.TOYS.kind, namespace):
            await client.delete(Ref.of(found))

    return delete


@pytest.fixture
def start(api: Api, tmp_path: Path) -> Iterator[Callable[..., Operator]]:
    """Starts operators, and ends them after the test."""
    with ExitStack() as stack:

        def start(**environment: str) -> Operator:
            operator = Operator(tmp_path / f"{uuid.uuid4().hex}.log", environment)
            stack.callback(lambda: print(operator.log()))  # pytest shows it where a test fails
            stack.callback(operator.process.wait)
            stack.callback(operator.process.kill)
            return operator

        yield start


@pytest.fixture
def operator(start: Callable[..., Operator]) -> Operator:
    """One operator without a lease, ready."""
    operator = start()
    wait_for(operator.ready)
    return operator
