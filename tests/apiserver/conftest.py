"""A real API server for the session: server-side apply, CEL, pruning and managed fields can be tested on no fake."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.cluster import binaries, controlplane


@pytest.fixture(scope="session")
def apiserver_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the API server lives: its certificates, its logs."""
    return tmp_path_factory.mktemp("apiserver")


@pytest.fixture(scope="session")
def kubeconfig(apiserver_folder: Path) -> Iterator[Path]:
    """An admin's kubeconfig for an API server of this session's own, which KUBECONFIG names, too."""
    if binaries.built() is None:
        pytest.skip("the Kubernetes binaries are not built: `python3 -m hack.cluster binaries`")
    with controlplane.apiserver(apiserver_folder) as path:
        before = os.environ.get("KUBECONFIG")
        os.environ["KUBECONFIG"] = str(path)
        yield path
        if before is None:
            del os.environ["KUBECONFIG"]
        else:
            os.environ["KUBECONFIG"] = before
