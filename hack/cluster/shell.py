"""Running other programs, and telling what goes on.

Standard output belongs to results (a path, a reference), which scripts read; what is being done goes to standard
error.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

_STARTED = time.monotonic()
_REPORT_EVERY = 15.0


class ClusterError(Exception):
    """What was asked for did not work; the message is for the person who asked."""


def say(text: str) -> None:
    print(f"[{time.monotonic() - _STARTED:6.1f} s] {text}", file=sys.stderr, flush=True)


def run(
    *command: str | Path,
    text: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float | None = None,
) -> str:
    """Runs a short command to its end and returns what it printed."""
    try:
        done = subprocess.run(
            command,
            input=text,
            env=_environment(env),
            cwd=cwd,
            timeout=timeout,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError as error:
        raise ClusterError(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"{_shown(command)}: no end within {timeout:.0f} s") from error
    if done.returncode:
        raise ClusterError(f"{_shown(command)}: exit status {done.returncode}\n{(done.stderr or done.stdout).strip()}")
    return done.stdout


def run_long(
    title: str, *command: str | Path, log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> None:
    """Runs a command that takes minutes: its output goes to a log, and a line now and then says that it still runs."""
    say(f"{title} (output in {log})")
    started = time.monotonic()
    with (
        log.open("w") as output,
        subprocess.Popen(
            command, env=_environment(env), cwd=cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            while True:
                try:
                    status = process.wait(_REPORT_EVERY)
                    break
                except subprocess.TimeoutExpired:
                    say(f"{title}: {time.monotonic() - started:.0f} s, {_last_line(log)}")
        except BaseException:
            process.terminate()
            raise
    if status:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
        raise ClusterError(f"{_shown(command)}: exit status {status}\n{tail}")
    say(f"{title}: done in {time.monotonic() - started:.0f} s")


def wait_for(what: str, holds: Callable[[], bool], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not holds():
        if time.monotonic() > deadline:
            raise ClusterError(f"{what}: not so after {timeout:.0f} s")
        time.sleep(0.2)


def _environment(extra: Mapping[str, str] | None) -> dict[str, str] | None:
    return None if extra is None else {**os.environ, **extra}


def _shown(command: tuple[str | Path, ...]) -> str:
    shown = " ".join(str(word) for word in command)
    return shown if len(shown) < 200 else shown[:200] + " ..."


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:100] if lines else "no output yet"


def write(path: Path, text: str) -> Path:
    """Writes the file unless that is what it says already: some programs end when their configuration is touched."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
    return path


def filesystem(path: Path) -> str:
    """The type of the file system that the path is on, where /proc tells it."""
    above = [(len(where.parts), kind) for where, kind in mounts() if path.resolve().is_relative_to(where)]
    return max(above, key=lambda depth_and_kind: depth_and_kind[0])[1] if above else ""


def mounts() -> list[tuple[Path, str]]:
    """Where something is mounted, and what type of file system. Nothing, where there is no /proc to tell."""
    table = Path("/proc/self/mounts")
    lines = [line.split() for line in table.read_text().splitlines()] if table.exists() else []
    return [(Path(fields[1]), fields[2]) for fields in lines]
