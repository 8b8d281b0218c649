"""Programs that outlive the command: found again, restarted when they changed, and never mistaken for others."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.cluster.processes import Program

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are recognized by /proc")


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    program = Program(tmp_path, "sleeper")
    yield program
    program.stop()


def test_it_is_started_once(program: Program) -> None:
    program.ensure(["sleep", "60"])
    first = program.pid
    program.ensure(["sleep", "60"])
    assert first is not None
    assert program.pid == first


def test_another_command_line_or_configuration_restarts_it(program: Program, tmp_path: Path) -> None:
    configuration = tmp_path / "configuration"
    configuration.write_text("one")
    pids = []
    for command, text in ((["sleep", "60"], "one"), (["sleep", "61"], "one"), (["sleep", "61"], "two")):
        configuration.write_text(text)
        program.ensure(command, configuration)
        pids.append(program.pid)
    assert len(set(pids)) == 3


def test_a_dead_one_is_started_again(program: Program) -> None:
    program.ensure(["sleep", "60"])
    first = program.pid
    assert first is not None
    os.kill(first, 9)
    os.waitpid(first, 0)
    assert program.pid is None
    program.ensure(["sleep", "60"])
    assert program.pid not in (None, first)


def test_a_process_that_was_given_the_same_pid_is_not_ours(program: Program, tmp_path: Path) -> None:
    record = tmp_path / "run" / "sleeper.json"
    record.parent.mkdir()
    record.write_text(json.dumps({"pid": os.getpid(), "started": "1", "command": []}))
    assert program.pid is None
    program.stop()
    assert not record.exists()
