"""The API server goes away and comes back with a shorter memory."""

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hack.cluster.controlplane import free_ports
from tests.apiserver.engine import toy
from tests.apiserver.engine.conftest import Api, Operator, wait_for

Start = Callable[..., Operator]


class SecondServer:
    """Another API server on the same etcd, to be killed and started again on the same port."""

    def __init__(self, folder: Path, log: Path) -> None:
        command = _command_in(folder)
        (self.port,) = free_ports(1)
        self._command = [f"--secure-port={self.port}" if "--secure-port=" in option else option for option in command]
        self._log = log
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, cwd=self._folder)

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()


def _command_in(folder: Path) -> list[str]:
    """The command line of the API server that lives in a folder."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().decode().split("\0")[:-1]
        except OSError:
            continue
        if command and command[0].endswith("kube-apiserver") and any(str(folder) in option for option in command):
            return command
    raise AssertionError("no API server runs")


@pytest.fixture
def second(api: Api, apiserver_folder: Path, tmp_path: Path) -> Iterator[SecondServer]:
    server = SecondServer(apiserver_folder.resolve(), tmp_path / "second.log")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def operator(start: Start, second: SecondServer, kubeconfig: Path, tmp_path: Path) -> Operator:
    """An operator that talks to the second server only."""
    text = re.sub(r"(https://[^:]+):\d+", rf"\1:{second.port}", kubeconfig.read_text())
    assert str(second.port) in text
    path = tmp_path / "second.kubeconfig"
    path.write_text(text)
    operator = start(KUBECONFIG=os.fspath(path))
    wait_for(operator.ready)
    return operator


def test_what_went_while_nobody_watched_is_noticed(api: Api, second: SecondServer, operator: Operator) -> None:
    for name in ("kept", "gone", "orphaned"):
        api.toy(name, 1)
    wait_for(lambda: all(map(api.settled, ("kept", "gone", "orphaned"))))
    lists = operator.metric("edgemodel_informer_lists_total")
    second.kill()
    api.delete(toy.TOYS.kind, "gone")
    api.delete(toy.DEPLOYMENTS.kind, "gone")
    api.delete(toy.DEPLOYMENTS.kind, "orphaned")
    api.toy("kept", 5)
    api.toy("new", 6)
    second.start()
    wait_for(lambda: api.size("kept") == 5 and api.size("new") == 6)
    wait_for(lambda: api.size("orphaned") == 1)
    # The deletion of a child may be noticed before that of its parent, and there is no garbage collector here.
    # But in the end the parent is known to be gone.
    time.sleep(2)
    api.delete(toy.DEPLOYMENTS.kind, "gone")
    time.sleep(2)
    assert api.size("gone") is None
    assert operator.metric("edgemodel_informer_lists_total") > lists, "the server should have forgotten the old version"
    assert operator.process.poll() is None
    assert operator.get("/healthz")[0] == 200
