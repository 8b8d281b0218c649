"""The real thing: a cluster with kubelet, the chart, real images, a real object store."""

from collections.abc import Iterator

import pytest

from hack.cluster.shell import REPOSITORY
from hack.deploy import deploy, upload_sources
from tests.e2e.edge import NAMESPACE, OTHER_NAMESPACE, Edge

TINY = REPOSITORY / "tests" / "fixtures" / "tinysawyer-hf"
COMPUTING = {"test_embeddings", "test_qnn", "test_runtimes", "test_third_party"}
"""Modules whose Jobs keep every processor busy."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What waits goes first, while tests on engines may run beside it; what computes goes last."""
    items.sort(key=lambda item: item.path.stem in COMPUTING)


@pytest.fixture(scope="session")
def edge() -> Iterator[Edge]:
    """A cluster with the operator, and the tiny model among its sources."""
    deployed = deploy([NAMESPACE, OTHER_NAMESPACE])
    edge = Edge(deployed)
    edge.clear()
    for namespace in (NAMESPACE, OTHER_NAMESPACE):
        upload_sources(deployed, namespace, {f"tiny/{file.name}": file for file in TINY.iterdir()})
    yield edge
    edge.clear()
