"""helm, as the cluster tool builds it, and an API server where one can be had."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.cluster import binaries, cache, controlplane
from tests.chart.chart import Helm


def _find(tool: str) -> Path | None:
    if on_path := shutil.which(tool):
        return Path(on_path)
    found = sorted(cache.root().glob(f"binaries-*/{tool}"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Helm]:
    """helm without any cluster, and with folders of its own."""
    program = _find("helm")
    if program is None:
        pytest.skip("helm is not built: `python3 hack/cluster binaries`")
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"):
            patch.setenv(variable, str(tmp_path_factory.mktemp(variable.lower())))
        patch.setenv("KUBECONFIG", os.devnull)
        yield Helm(program)


@pytest.fixture(scope="session")
def kubectl() -> Path:
    program = _find("kubectl")
    if program is None:
        pytest.skip("kubectl is not built: `python3 hack/cluster binaries`")
    return program


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An API server of this module's own: nothing acts on what is put there."""
    if binaries.built() is None:
        pytest.skip("the Kubernetes binaries are not built: `python3 hack/cluster binaries`")
    with controlplane.apiserver(tmp_path_factory.mktemp("apiserver")) as path:
        yield path
