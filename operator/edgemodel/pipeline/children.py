"""Programs that a toolchain runs: watched while they run, explained when they fail, ended when the Job is."""

import os
import re
import shutil
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from edgemodel.pipeline.errors import DiskFullError, OutOfMemoryError
from edgemodel.pipeline.termination import log

_LINES = 40
_LONGEST_LINE = 1 << 16
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV")
"""The environment that programs see: none of the Job's secrets are in it."""

_running: set[subprocess.Popen[bytes]] = set()


class ChildFailedError(Exception):
    """A program failed. `tail` is the end of what it said, for whoever knows the program."""

    def __init__(self, status: int, tail: str) -> None:
        super().__init__(f"exit status {status}")
        self.status = status
        self.tail = tail

    @property
    def last_words(self) -> str:
        """Its last line, for a message."""
        return (self.tail.splitlines() or [str(self)])[-1][:300]


def run_child(command: Sequence[str | Path], folder: Path, hear: Callable[[str], None], **environ: str) -> str:
    """Runs a program in `folder` and returns the end of its output. `hear` gets each line and each carriage return's
    worth of it while it runs."""
    tail: deque[str] = deque(maxlen=_LINES)
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    child = subprocess.Popen(
        [str(part) for part in command],
        cwd=folder,
        env=passed_on | {"HOME": str(folder)} | environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    _running.add(child)
    try:
        assert child.stdout
        _listen(child.stdout, tail, hear)
        status = child.wait()
    finally:
        child.kill()
        child.wait()
        _running.discard(child)
        if child.stdout:
            child.stdout.close()
    said = "\n".join(tail)
    if status == 0:
        return said
    name = Path(command[0]).name
    log("a program failed", program=name, status=status, said=said[-4000:])
    if status == -signal.SIGKILL:
        raise OutOfMemoryError(f"{name} was killed: it needed more memory than the Job has")
    if "No space left on device" in said or _is_full(folder):
        raise DiskFullError(f"{name} found the scratch volume full: the node needs more ephemeral storage")
    raise ChildFailedError(status, said)


def kill_children() -> None:
    """Ends every program that runs."""
    for child in list(_running):
        child.kill()


def _is_full(folder: Path) -> bool:
    """Not every program says why it could not write."""
    return shutil.disk_usage(folder).free < 1 << 20


def _listen(stream: IO[bytes], tail: deque[str], hear: Callable[[str], None]) -> None:
    """Lines as they come, also those that are still being written: programs show progress in them."""
    pending = b""
    while block := os.read(stream.fileno(), 1 << 16):
        *lines, pending = re.split(rb"[\r\n]+", (pending + block))
        texts = [line.decode("utf-8", "replace").rstrip() for line in lines]
        tail.extend(filter(None, texts))
        for text in texts:
            hear(text)
        pending = pending[-_LONGEST_LINE:]
        if pending:
            hear(pending.decode("utf-8", "replace"))
    if pending:
        tail.append(pending.decode("utf-8", "replace"))
