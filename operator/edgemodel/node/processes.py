"""What runs for a container of a pod: one process at a time, kept by a shim that outlives the agent."""

import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from edgemodel.node.shim import LAUNCH, LOCK, LOG_FILES, STATE, now, older, write_json

_LOGS = "logs"


@dataclass(frozen=True)
class Run:
    """One run of a container: it goes on while `finished` is empty."""

    attempt: int
    pid: int
    started: str
    finished: str = ""
    code: int = 0
    signal: int = 0
    message: str = ""

    @property
    def going_on(self) -> bool:
        """Whether it has not ended."""
        return not self.finished


class Box:
    """A container's place on the disk, and its process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shim: subprocess.Popen[bytes] | None = None

    def start(self, argv: Sequence[str], env: Mapping[str, str], cwd: Path, attempt: int) -> None:
        """Starts it. Its number tells this run from those before."""
        for folder in (self.folder / _LOGS, cwd):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._forget_logs(before=attempt - 1)
        if self._shim:
            self._shim.wait()
        launch = {
            "argv": list(argv),
            "env": dict(env),
            "cwd": str(cwd),
            "log": str(self.log(attempt)),
            "attempt": attempt,
        }
        write_json(self.folder / LAUNCH, launch)
        with (self.folder / "shim.log").open("wb") as output:
            self._shim = subprocess.Popen(
                [sys.executable, "-m", "edgemodel.node.shim", str(self.folder)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def look(self) -> Run | None:
        """The latest run; None if there was none."""
        launch = self._read(LAUNCH)
        if not launch:
            return None
        attempt = launch["attempt"]
        kept = self._is_kept()
        state = self._read(STATE)
        if state.get("attempt") != attempt:
            state = {"attempt": attempt, "startedAt": now()}
            if kept:
                return Run(attempt, 0, state["startedAt"])
        if state.get("finishedAt") or kept:
            return _run(state)
        self._kill(state)
        lost = {"exitCode": 137, "finishedAt": now(), "message": "what kept the process was ended, and it with it"}
        write_json(self.folder / STATE, state | lost)
        return _run(state | lost)

    def ask_to_end(self) -> None:
        """SIGTERM."""
        if process := _process(self._read(STATE)):
            with suppress(psutil.NoSuchProcess):
                process.terminate()

    def kill(self) -> None:
        """SIGKILL, for it and what it has started."""
        self._kill(self._read(STATE))

    def usage(self) -> tuple[float, int]:
        """Seconds of CPU and bytes of memory that it and what it has started take."""
        seconds, memory = 0.0, 0
        process = _process(self._read(STATE))
        for each in [process, *_children(process)] if process else []:
            with suppress(psutil.Error):
                times = each.cpu_times()
                seconds, memory = seconds + times.user + times.system, memory + each.memory_info().rss
        return seconds, memory

    def log(self, attempt: int) -> Path:
        """The log of a run."""
        return self.folder / _LOGS / f"{attempt}.log"

    def remove(self) -> None:
        """Nothing of it stays."""
        self.kill()
        if self._shim:
            self._shim.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _is_kept(self) -> bool:
        if self._shim and self._shim.poll() is None:
            return True
        with (self.folder / LOCK).open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def _kill(self, state: Mapping[str, Any]) -> None:
        if process := _process(state):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)

    def _forget_logs(self, before: int) -> None:
        for log in (self.folder / _LOGS).glob("*.log"):
            if log.stem.isdigit() and int(log.stem) < before:
                for number in range(LOG_FILES):
                    older(log, number).unlink(missing_ok=True)

    def _read(self, name: str) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads((self.folder / name).read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return content


def _run(state: Mapping[str, Any]) -> Run:
    return Run(
        attempt=state["attempt"],
        pid=state.get("pid", 0),
        started=state["startedAt"],
        finished=state.get("finishedAt", ""),
        code=state.get("exitCode", 0),
        signal=state.get("signal", 0),
        message=state.get("message", ""),
    )


def _process(state: Mapping[str, Any]) -> psutil.Process | None:
    """The process that a state tells of, unless its pid is another's now."""
    if "pid" not in state or state.get("finishedAt"):
        return None
    try:
        process = psutil.Process(state["pid"])
        return process if abs(process.create_time() - state["created"]) < 1 else None
    except psutil.Error:
        return None


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def port_problem(address: str, port: int) -> str:
    """Why nobody can listen there now; empty if one can."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        socket.create_server((address, port), family=family).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return f"something else listens on {address}:{port}: end it, and the pod starts"
        return (
            f"nothing can listen on {address}:{port}: {error.strerror}. Is the address on an interface of this machine?"
        )
    # Some systems give an address out although somebody listens on all addresses.
    with socket.socket(family) as asking:
        asking.settimeout(1)
        if asking.connect_ex((address, port)) == 0:
            return f"something else listens on port {port} of all addresses: end it, and the pod starts"
    return ""
