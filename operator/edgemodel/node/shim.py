"""`python -m edgemodel.node.shim FOLDER`: keeps one process, so that the agent may come and go.

It starts what FOLDER/launch.json says, writes what the process says to a log, and notes in FOLDER/state.json which
process it is and how it ended. While it lives it holds a lock on FOLDER/lock, which the kernel takes from it whatever
becomes of it: so there is never more than one, and the agent knows whether there is.
"""

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import psutil

LAUNCH, STATE, LOCK = "launch.json", "state.json", "lock"
LOG_BYTES, LOG_FILES = 10 << 20, 3
_LINE = 16 << 10
_OPEN_FILES = 10240
"""As many as macOS allows a process without more ado; mlx_lm wants 4096 when it is imported."""
_PATIENCE = 2.0


def now() -> str:
    """The time as Kubernetes writes it in logs: as text it sorts like the time."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def write_json(path: Path, content: Any) -> None:
    """Writes a file whole or not at all, readable by its owner alone."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.touch(mode=0o600)
    scratch.write_text(json.dumps(content))
    scratch.replace(path)


class Log:
    """A log as containers have them, `TIME STREAM F|P TEXT`: the newest file has the name, older ones a number more."""

    def __init__(self, path: Path, size: int = LOG_BYTES) -> None:
        self._path = path
        self._size = size
        self._lock = threading.Lock()
        self._file: IO[bytes] = path.open("ab", buffering=0)

    def pump(self, stream: IO[bytes], name: str) -> None:
        """Writes all that comes out of a stream, line by line."""
        while line := stream.readline(_LINE):
            whole = line.endswith(b"\n")
            self._write(b"%s %s %s %s\n" % (now().encode(), name.encode(), b"F" if whole else b"P", line.rstrip(b"\n")))

    def close(self) -> None:
        """Nothing more is written."""
        self._file.close()

    def _write(self, line: bytes) -> None:
        # A full disk costs lines of the log; it must not make the process wait.
        with self._lock, suppress(OSError, ValueError):
            if self._file.tell() + len(line) > self._size:
                self._rotate()
            self._file.write(line)

    def _rotate(self) -> None:
        self._file.close()
        for number in range(LOG_FILES - 1, 0, -1):
            newer = older(self._path, number - 1)
            if newer.exists():
                newer.replace(older(self._path, number))
        self._file = self._path.open("ab", buffering=0)


def older(log: Path, number: int) -> Path:
    """The file of a log that was rotated `number` times."""
    return log.with_name(f"{log.name}.{number}") if number else log


def main() -> int:
    """Runs the process to its end."""
    folder = Path(sys.argv[1])
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with (folder / LOCK).open("w") as lock:
        if not _locked(lock):
            return 1
        launch: dict[str, Any] = json.loads((folder / LAUNCH).read_text())
        state: dict[str, Any] = {"attempt": launch["attempt"], "startedAt": now()}
        _allow_open_files()
        try:
            process = subprocess.Popen(
                launch["argv"],
                cwd=launch["cwd"],
                env=launch["env"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            ended = {"exitCode": 127, "message": f"cannot start {launch['argv'][0]}: {error.strerror}"}
            write_json(folder / STATE, state | ended | {"finishedAt": now()})
            return 0
        with suppress(psutil.NoSuchProcess):
            state |= {"pid": process.pid, "created": psutil.Process(process.pid).create_time()}
        write_json(folder / STATE, state)
        assert process.stdout is not None
        assert process.stderr is not None
        log = Log(Path(launch["log"]))
        pumps = [
            threading.Thread(target=log.pump, args=each, daemon=True)
            for each in ((process.stdout, "stdout"), (process.stderr, "stderr"))
        ]
        for pump in pumps:
            pump.start()
        code = process.wait()
        with suppress(ProcessLookupError, PermissionError):  # what it has started itself ends with it
            os.killpg(process.pid, signal.SIGKILL)
        for pump in pumps:
            pump.join(_PATIENCE)
        log.close()
        ended = {"exitCode": code if code >= 0 else 128 - code, "signal": max(0, -code), "finishedAt": now()}
        write_json(folder / STATE, state | ended)
    return 0


def _locked(lock: IO[str]) -> bool:
    """Whether we are the only one. The agent looks at the lock too, for an instant."""
    for _ in range(20):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.05)
        else:
            return True
    return False


def _allow_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    sys.exit(main())
