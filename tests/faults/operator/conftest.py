"""One world for all tests of the operator on an API server."""

from collections.abc import Iterator

import pytest

from hack.cluster import binaries
from tests.apiserver.operator.world import World, open_world
from tests.s3 import find_versitygw


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """An API server of their own, so that no operator sees what other tests do."""
    if binaries.built() is None or find_versitygw() is None:
        pytest.skip("the Kubernetes binaries are not built: `python3 -m hack.cluster binaries`")
    with open_world(tmp_path_factory.mktemp("world")) as world:
        yield world
        assert world.stand_in.errors == []
