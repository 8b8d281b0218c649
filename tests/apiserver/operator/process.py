"""The operator as a process: as it is installed (`start`), and quickly (`Nursery`)."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hack.cluster import cache

ROOT = Path(__file__).parents[3]
_LOCK = ROOT / "requirements" / "operator.txt"


def lean_python() -> Path:
    """A Python that has just what the operator's image has, made once for each lock file.

    The tests' own has the official Kubernetes client, which kopf imports where it finds it, at 58 MB.
    """

    def fill(folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = (folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--require-hashes", "-r", _LOCK)
        subprocess.run(pip, check=True)

    return cache.entry("venv-operator", cache.key_of(ROOT, [_LOCK], sys.version), fill) / "bin" / "python"


def environment(kubeconfig: Path, store: Mapping[str, str], **more: str) -> dict[str, str]:
    """What the operator's pod would have in its environment. The system picks the port, another for IPv6 than for IPv4:
    whoever wants to read metrics gives one."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT / "operator"),
        "KUBECONFIG": str(kubeconfig),
        "EDGEMODEL_OPERATOR_IMAGE": "edgemodel/operator:test",
        "EDGEMODEL_STORE_SECRET": "edgemodel-store",
        "EDGEMODEL_STORE_REGION": "us-east-1",
        "EDGEMODEL_PORT": "0",
        **store,
        **more,
    }


@dataclass
class Operator:
    """A running operator."""

    pid: int
    log: Path
    log_from: int = 0

    @property
    def alive(self) -> bool:
        """Whether the process is there."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except (FileNotFoundError, ProcessLookupError):
            return False

    def messages(self) -> list[dict[str, str]]:
        """What it has logged so far."""
        with self.log.open("rb") as file:
            file.seek(self.log_from)
            lines = file.read().decode(errors="replace").splitlines()
        return [json.loads(line) if line.startswith("{") else {"message": line, "level": "raw"} for line in lines]

    def complaints(self) -> list[str]:
        """Errors it has logged: bugs, for what can happen is no error."""
        bad = ("error", "critical", "raw")
        return [f"{line['message']} {line.get('exception', '')}" for line in self.messages() if line["level"] in bad]

    def wait_for(self, message: str, timeout: float = 120) -> None:
        """Until it has logged it."""
        until = time.monotonic() + timeout
        while not any(message in line["message"] for line in self.messages()):
            if not self.alive or time.monotonic() > until:
                raise AssertionError(f"no {message!r} in {self.log}:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.01)

    @property
    def port(self) -> int:
        """Where it serves health and metrics."""
        said = "serving health and metrics on port "
        self.wait_for(said)
        return next(int(line["message"].removeprefix(said)) for line in self.messages() if said in line["message"])

    def metrics(self) -> dict[str, float]:
        """Its metrics by name and labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def writes(self) -> dict[str, float]:
        """Write requests by verb and resource, as it counts them itself."""
        found: dict[str, float] = {}
        for name, value in self.metrics().items():
            if name.startswith("edgemodel_api_requests_total"):
                labels = dict(part.split("=") for part in name.partition("{")[2].rstrip("}").split(","))
                verb, resource = labels["verb"].strip('"'), labels["resource"].strip('"')
                if verb not in ("get", "list", "discover") and resource != "leases":
                    found[f"{verb} {resource}"] = found.get(f"{verb} {resource}", 0) + value
        return found

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Sends a signal and waits until it is gone."""
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return
        until = time.monotonic() + 60
        while self.alive:
            if time.monotonic() > until:
                raise AssertionError(f"the operator does not end:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.005)


@contextmanager
def start(env: Mapping[str, str], log: Path) -> Iterator[Operator]:
    """The operator as its image starts it."""
    command = (lean_python(), "-m", "edgemodel.controllers.main")
    with log.open("ab") as output:
        offset = output.tell()
        process = subprocess.Popen(command, env=dict(env), stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield Operator(process.pid, log, offset)
    finally:
        process.kill()
        process.wait()


class Nursery:
    """Starts operators in a tenth of a second; see `fork_server`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pids: list[int] = []
        self._lock = threading.Lock()
        script = Path(__file__).parent / "fork_server.py"
        # A script's own folder comes first on its path, and this one has a module named `operator` beside it.
        copy = shutil.copy(script, folder / "fork_server.py")
        self._log = (folder / "nursery.log").open("wb")
        self._server = subprocess.Popen(
            [lean_python(), copy],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "operator")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def start(self, env: Mapping[str, str], name: str) -> Operator:
        """Starts one."""
        assert self._server.stdin
        assert self._server.stdout
        log = self._folder / f"{name}.log"
        log.touch()
        offset = log.stat().st_size
        with self._lock:
            self._server.stdin.write(json.dumps({"env": dict(env), "log": str(log)}) + "\n")
            self._server.stdin.flush()
            answer = self._server.stdout.readline()
        if not answer:
            raise AssertionError(f"the fork server ended: {(self._folder / 'nursery.log').read_text()[-4000:]}")
        pid = int(json.loads(answer)["pid"])
        self._pids.append(pid)
        return Operator(pid, log, offset)

    def close(self) -> None:
        """Ends all that were started here."""
        for pid in self._pids:
            try:
                if b"fork_server" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, FileNotFoundError):
                continue
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.close()
        self._server.wait(10)
        self._server.stdout.close()
        self._log.close()
