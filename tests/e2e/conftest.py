"""The real thing: a cluster with kubelet, the chart, real images, a real object store."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kubernetes import config

from hack.cluster import kind, network
from hack.cluster.controlplane import free_ports
from hack.cluster.shell import REPOSITORY
from hack.deploy import SOURCES, deploy, upload_sources
from tests import hub
from tests.e2e.edge import NAMESPACE, OTHER_NAMESPACE, Edge, Json

TINY = REPOSITORY / "tests" / "fixtures" / "tinysawyer-hf"
COMPUTING = {"test_embeddings", "test_qnn", "test_runtimes", "test_third_party"}
"""Modules whose Jobs keep every processor busy."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What waits goes first, while tests on engines may run beside it; what computes goes last."""
    items.sort(key=lambda item: item.path.stem in COMPUTING)


TOKEN = "hf-of-a-test"


@pytest.fixture(scope="session")
def hub_port() -> int:
    """Where the stand-in for a hub will be."""
    return free_ports(1)[0]


@pytest.fixture(scope="session")
def edge(hub_port: int) -> Iterator[Edge]:
    """A cluster with the operator, and the tiny model among its sources."""
    deployed = deploy([NAMESPACE, OTHER_NAMESPACE], hub=f"http://{network.ADDRESS}:{hub_port}")
    with config.new_client_from_config(str(deployed.kubeconfig)) as api:
        edge = Edge(deployed, api)
        edge.clear()
        for namespace in (NAMESPACE, OTHER_NAMESPACE):
            upload_sources(deployed, namespace, {f"tiny/{file.name}": file for file in TINY.iterdir()})
        yield edge
        edge.clear()


@pytest.fixture(scope="module")
def hub_source(edge: Edge, hub_port: int) -> Iterator[Json]:
    """The tiny model on a hub that wants a token: a stand-in, on this machine. A node of kind's does not reach it, and
    gets the bucket's."""
    if kind.docker_answers():
        yield {"uri": f"s3://{SOURCES}/tiny", "secretRef": {"name": SOURCES}}
        return
    edge.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hub"}, "stringData": {"HF_TOKEN": TOKEN}})
    there = hub.Hub({file.name: file.read_bytes() for file in TINY.iterdir()}, token=TOKEN)
    with hub.serve(there, address=network.ADDRESS, port=hub_port):
        yield {"uri": f"hf://{hub.MODEL}", "revision": "main", "secretRef": {"name": "hub"}}


@pytest.fixture(scope="module")
def volume(edge: Edge) -> Iterator[Callable[[Path], Json]]:
    """Makes a source of a folder of this machine, by a volume and a claim. A node of kind's has no such folder: it is
    uploaded for that."""

    def source(folder: Path) -> Json:
        if kind.docker_answers():
            files = {f"{folder.name}/{file.relative_to(folder)}": file for file in folder.rglob("*") if file.is_file()}
            upload_sources(edge.deployed, NAMESPACE, files)
            return {"uri": f"s3://{SOURCES}/{folder.name}", "secretRef": {"name": SOURCES}}
        size = {"storage": "1Gi"}
        common = {"accessModes": ["ReadOnlyMany"], "storageClassName": "", "volumeName": "models"}
        edge.apply(
            {
                "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "models"},
                "spec": {
                    "accessModes": ["ReadOnlyMany"], "capacity": size, "hostPath": {"path": str(folder.parent)},
                    "claimRef": {"namespace": NAMESPACE, "name": "models"},
                },
            }
        )  # fmt: skip
        edge.apply(
            {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "models"},
                "spec": common | {"resources": {"requests": size}},
            }
        )  # fmt: skip
        return {"uri": f"pvc://models/{folder.name}"}

    yield source
    edge.clear()
    edge.delete("pvc", "models")
    edge.delete("pv", "models")
