"""A pod of llama-server that is told to go while clients keep their connections."""

import http.client
import json
import os
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from hack.cluster.controlplane import free_ports
from hack.cluster.shell import REPOSITORY
from tests.llamacpp import LlamaCpp

DRAIN = REPOSITORY / "runtime-images" / "llamacpp" / "drain"
BODY = json.dumps({"prompt": "Tom", "max_tokens": 4})


@pytest.fixture
def model(llamacpp: LlamaCpp, tmp_path: Path) -> Path:
    """A model that a server can load."""
    model = tmp_path / "model.gguf"
    tiny = REPOSITORY / "tests" / "fixtures" / "tinysawyer-hf"
    done = llamacpp.run(llamacpp.home / "convert" / "convert_hf_to_gguf.py", tiny, "--outfile", model)
    assert done.returncode == 0, done.stderr
    return model


class Client(threading.Thread):
    """Asks all the time, on one connection for as long as the server keeps it, and without trying anything twice."""

    def __init__(self, port: int, pause: float) -> None:
        super().__init__()
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        self._pause = pause
        self.leaves = threading.Event()
        """Set when a new connection would lead to another pod."""
        self.answered = 0
        self.failed: list[str] = []

    def run(self) -> None:
        """Until its connection is closed after `leaves` is set."""
        try:
            while True:
                self._connection.request("POST", "/v1/completions", BODY, {"Content-Type": "application/json"})
                answer = self._connection.getresponse()
                answer.read()
                if answer.status != 200:
                    self.failed.append(str(answer.status))
                self.answered += 1
                if self._connection.sock is None and self.leaves.is_set():
                    return
                time.sleep(self._pause)
        except (OSError, http.client.HTTPException) as error:
            self.failed.append(repr(error))
        finally:
            self._connection.close()


def test_no_request_fails_when_a_server_that_is_asked_all_the_time_goes(
    llamacpp: LlamaCpp, model: Path, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    command = ["--model", str(model), "--host", "127.0.0.1", "--port", str(port), "--ctx-size", "512"]
    command += ["--parallel", "2", "--threads", "1"]  # more wait for each other by spinning, if they share a core
    program = str(llamacpp.home / "bin" / "llama-server")
    with (tmp_path / "log").open("wb") as log, subprocess.Popen([program, *command], stdout=log, stderr=log) as server:
        try:
            _wait_until_it_answers(port)
            clients = [Client(port, pause) for pause in (0.02, 0.05)]
            for client in clients:
                client.start()
            time.sleep(0.5)
            for client in clients:
                client.leaves.set()
            subprocess.run([DRAIN], env=os.environ | {"PORT": str(port), "DRAIN_SECONDS": "500"}, check=True)
            server.terminate()
            assert server.wait(30) == 0
            for client in clients:
                client.join(30)
            assert [client.failed for client in clients] == [[], []]
            assert all(client.answered >= 100 for client in clients)
        finally:
            server.kill()


def test_a_server_that_nobody_asks_is_not_waited_for() -> None:
    (port,) = free_ports(1)
    environ = os.environ | {"PORT": str(port), "DRAIN_SECONDS": "600"}
    subprocess.run([DRAIN], env=environ, check=True, timeout=300)


def _wait_until_it_answers(port: int) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("llama-server does not answer")
