"""Programs of ours that outlive the command that started them.

Each has a file that says which process it is: the pid, when that process started (so that a pid that was given to
somebody else since is not taken for ours), the command line and the configuration (so that a change is noticed).
Only what is in such a file is ever stopped.
"""

import json
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hack.cluster.shell import say

_PATIENCE = 10.0


@dataclass(frozen=True)
class Program:
    """A program by its name, in the folder that holds its `run/<name>.json` and `logs/<name>.log`."""

    folder: Path
    name: str

    @property
    def log(self) -> Path:
        return self.folder / "logs" / f"{self.name}.log"

    @property
    def pid(self) -> int | None:
        """The process that runs it, if that one lives."""
        record = self._record()
        pid = record.get("pid")
        return pid if isinstance(pid, int) and record["started"] == started_at(pid) else None

    def ensure(self, command: Sequence[str | Path], configuration: Path | None = None) -> None:
        """Starts it, unless it runs already with this very command line and configuration."""
        words = [str(word) for word in command]
        wanted = {"command": words, "configuration": configuration.read_text() if configuration else ""}
        if self.pid is not None:
            if wanted.items() <= self._record().items():
                return
            self.stop()
        say(f"starting {self.name}")
        for file in (self.log, self._file):
            file.parent.mkdir(parents=True, exist_ok=True)
        files = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(self.log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        pid = os.posix_spawnp(words[0], words, os.environ, file_actions=files, setsid=True)
        record = {"pid": pid, "started": started_at(pid), **wanted}
        self._file.write_text(json.dumps(record) + "\n")

    def stop(self) -> None:
        pid = self.pid
        if pid is not None:
            say(f"stopping {self.name}")
            end(pid)
        self._file.unlink(missing_ok=True)

    @property
    def _file(self) -> Path:
        return self.folder / "run" / f"{self.name}.json"

    def _record(self) -> dict[str, object]:
        try:
            record = json.loads(self._file.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}


def started_at(pid: int) -> str | None:
    """When the process started, in the kernel's ticks; None if there is no such process or it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else fields[18]


def end(pid: int) -> None:
    """Asks the process to stop, and makes it stop if it has not after a while."""
    began = started_at(pid)
    deadline = time.monotonic() + _PATIENCE
    for signal_ in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(pid, signal_)
        except ProcessLookupError:
            return
        while started_at(pid) == began and time.monotonic() < deadline:
            time.sleep(0.05)
        deadline += _PATIENCE
        if started_at(pid) != began:
            return
