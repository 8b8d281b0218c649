"""Processes that outlive who started them, and what they say. Real ones."""

import asyncio
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from edgemodel.node import logs
from edgemodel.node.logs import Wanted
from edgemodel.node.processes import Box, Run, port_problem
from edgemodel.node.shim import LOG_FILES, Log, older

FOREVER = "import time; print('here', flush=True); time.sleep(600)"


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    """A container's place. What it has started ends with the test."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    box = Box(tmp_path / "serve")
    yield box
    box.remove()


def start(box: Box, script: str, attempt: int = 1, **env: str) -> None:
    """Starts a Python."""
    box.start([sys.executable, "-c", script], env, box.folder.parent / "home", attempt)


def wait(holds: Callable[[], bool], seconds: float = 60) -> None:
    """Until something holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def gone(pid: int) -> bool:
    """Whether there is no such process any more."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def running(box: Box) -> Run:
    """The run, once its process is known."""
    wait(lambda: bool((run := box.look()) and run.pid))
    run = box.look()
    assert run
    return run


def ended(box: Box) -> Run:
    """The run, once it has ended."""
    wait(lambda: bool((run := box.look()) and not run.going_on))
    run = box.look()
    assert run
    return run


def said(box: Box, attempt: int = 1, **wanted: object) -> bytes:
    """The log as it is asked for."""

    async def read() -> bytes:
        parts = logs.read(box.log(attempt), Wanted(**wanted), lambda: False)  # type: ignore[arg-type]
        return b"".join([part async for part in parts])

    return asyncio.run(read())


def test_nothing_was_started(box: Box) -> None:
    assert box.look() is None


def test_end_is_told_with_its_code_and_its_words(box: Box) -> None:
    start(box, "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)")
    run = ended(box)
    assert (run.attempt, run.code, run.signal) == (1, 3, 0)
    assert run.started < run.finished
    assert sorted(said(box).splitlines()) == [b"err", b"out"]


def test_environment_is_what_was_given_and_no_more(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the-owner's")
    start(box, "import os; print(sorted(os.environ))", COLOUR="green")
    ended(box)
    names = eval(said(box))
    assert "COLOUR" in names
    assert "AWS_SECRET_ACCESS_KEY" not in names


def test_another_who_looks_finds_the_same_process(box: Box) -> None:
    start(box, FOREVER)
    run = running(box)
    assert Box(box.folder).look() == run
    Box(box.folder).ask_to_end()
    assert ended(box).signal == signal.SIGTERM
    assert ended(box).code == 143


def test_program_that_is_not_there_is_a_run_that_failed(box: Box) -> None:
    box.start(["/nowhere/python3"], {}, box.folder.parent / "home", 1)
    run = ended(box)
    assert run.code == 127
    assert "/nowhere/python3" in run.message


def test_what_a_process_has_started_ends_with_it(box: Box) -> None:
    start(box, "import subprocess; print(subprocess.Popen(['sleep', '600']).pid, flush=True)")
    ended(box)
    child = int(said(box))
    wait(lambda: gone(child))


def test_process_whose_keeper_was_killed_does_not_go_on(box: Box) -> None:
    start(box, FOREVER)
    pid = running(box).pid
    keeper = psutil.Process(pid).ppid()
    os.kill(keeper, signal.SIGKILL)
    run = ended(box)
    assert run.code == 137
    assert "kept" in run.message
    wait(lambda: gone(pid))


def test_next_run_has_a_log_of_its_own_and_the_one_before_stays(box: Box) -> None:
    for attempt in (1, 2, 3):
        start(box, f"print('run {attempt}')", attempt)
        wait(lambda attempt=attempt: ended(box).attempt == attempt)  # type: ignore[misc]
    assert not box.log(1).exists()
    assert said(box, 2) == b"run 2\n"
    assert said(box, 3) == b"run 3\n"


def test_stopped_twice_starts_once(box: Box) -> None:
    start(box, FOREVER)
    run = running(box)
    other = Box(box.folder)  # of an agent that does not know of the first
    start(other, FOREVER)
    assert other._shim
    assert other._shim.wait(60) == 1
    assert other.look() == box.look() == run


# Logs


def write(path: Path, *lines: str) -> None:
    """A log with these lines, a second apart."""
    path.write_text("".join(f"2026-01-02T03:04:0{n}.000000Z stdout F {line}\n" for n, line in enumerate(lines)))


async def shown(path: Path, **wanted: object) -> list[bytes]:
    """What of it is shown."""
    return [part async for part in logs.read(path, Wanted(**wanted), lambda: False)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, b"a\nb\nc\n"),
        ({"tail": 2}, b"b\nc\n"),
        ({"tail": 0}, b""),
        ({"since": "2026-01-02T03:04:01.000000Z"}, b"b\nc\n"),
        ({"limit": 3}, b"a\nb"),
        ({"tail": 1, "timestamps": True}, b"2026-01-02T03:04:02.000000Z c\n"),
    ],
)
def test_part_of_a_log(tmp_path: Path, wanted: dict[str, object], expected: bytes) -> None:
    write(tmp_path / "log", "a", "b", "c")
    assert b"".join(asyncio.run(shown(tmp_path / "log", **wanted))) == expected


def test_line_that_came_in_pieces_is_one(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(
        "2026Z stdout P one \n2026Z stdout F line\n2026Z stdout F a\rb\n2026Z stdout F unfini"
    )
    assert b"".join(asyncio.run(shown(tmp_path / "log"))) == b"one line\na\rb\n"


def test_log_does_not_grow_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = Log(path, size=2000)
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as stream:
        stream.write(b"".join(b"line %d\n" % number for number in range(300)))
    with os.fdopen(reading, "rb") as stream:
        log.pump(stream, "stdout")
    log.close()
    assert {file.name for file in tmp_path.iterdir()} == {older(path, number).name for number in range(LOG_FILES)}
    assert max(file.stat().st_size for file in tmp_path.iterdir()) <= 2000
    lines = b"".join(asyncio.run(shown(path))).splitlines()
    assert lines[-1] == b"line 299"
    assert lines == [b"line %d" % number for number in range(300 - len(lines), 300)]


def test_log_is_followed_over_its_rotation_to_the_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write(path, "first")
    ended = threading.Event()

    async def follow() -> list[bytes]:
        found = []
        async for part in logs.read(path, Wanted(follow=True), lambda: not ended.is_set()):
            found.append(part)
            if part == b"first\n":
                path.replace(older(path, 1))
                write(path, "second")
            if part == b"second\n":
                ended.set()
        return found

    assert asyncio.run(asyncio.wait_for(follow(), 60)) == [b"first\n", b"second\n"]


# Ports


def test_port_that_nobody_has_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert f"127.0.0.1:{port}" in port_problem("127.0.0.1", port)
    assert port_problem("127.0.0.1", port) == ""


def test_port_that_somebody_has_on_all_addresses_is_not() -> None:
    with socket.create_server(("0.0.0.0", 0)) as listener:
        assert "something else listens" in port_problem("127.0.0.1", listener.getsockname()[1])


def test_address_that_is_not_this_machines_is_said_to_be_missing() -> None:
    assert "Is the address on an interface" in port_problem("192.0.2.77", 8080)
