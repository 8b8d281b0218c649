"""An engine in a process of its own does as it would here. It is a stand-in that keeps the interpreter's lock."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgemodel.serve.engine import EngineSettings, ModelRefusedError, Output, Sampling, Token
from edgemodel.serve.engine_process import EngineProcess
from tests.unit.serve.locking_engine import LockingEngine, LockingTexts

SETTINGS = EngineSettings(Path(), 64, 4, 1)


@contextmanager
def opened(settings: EngineSettings = SETTINGS) -> Iterator[EngineProcess]:
    """An engine, closed in the end."""
    engine = EngineProcess(LockingEngine, LockingTexts, settings)
    try:
        yield engine
    finally:
        engine.close()


def told(outputs: list[Output]) -> list[tuple[int, int]]:
    """Requests and their tokens."""
    return [(output.request, token.id) for output in outputs for token in output.tokens]


def test_requests_are_answered_and_come_and_go() -> None:
    with opened() as engine:
        engine.add(1, [10], Sampling(3))
        assert told(engine.step()) == [(1, 11)]
        engine.add(2, [20, 30], Sampling(2))
        found: list[Output] = []
        while {output.request for output in found if output.finish == "length"} != {1, 2}:
            found += engine.step()
        assert [number for request, number in told(found) if request == 1] == [12, 13]
        assert [number for request, number in told(found) if request == 2] == [31, 32]
        engine.add(3, [40], Sampling(1))
        outputs: list[Output] = []
        while not outputs:
            outputs = engine.step()
        assert outputs == [Output(3, (Token(41),), "length")]


def test_nothing_is_heard_of_a_request_that_was_dropped() -> None:
    with opened() as engine:
        engine.add(1, [10], Sampling(1000))
        engine.add(2, [50], Sampling(20))
        engine.step()
        time.sleep(0.2)  # some of what it brings is under way
        engine.cancel(1)
        engine.cancel(1)
        engine.cancel(99)
        found: list[Output] = []
        while not any(output.finish for output in found):
            found += engine.step()
        assert {output.request for output in found} == {2}
        engine.cancel(2)
        engine.add(4, [7], Sampling(1))
        last: list[Output] = []
        while not last:
            last = engine.step()
        assert told(last) == [(4, 8)]


def test_others_go_on_while_it_computes(tmp_path: Path) -> None:
    """Its step ends when another thread has done something here, for which that needs this interpreter's lock."""
    fifo = tmp_path / LockingEngine.fifo
    os.mkfifo(fifo)

    def open_the_fifo() -> None:
        fifo.open("wb").close()

    with opened(EngineSettings(tmp_path, 64, 4, 1)) as engine:
        engine.add(1, [LockingEngine.waits_at], Sampling(1))
        other = threading.Timer(0.2, open_the_fifo)
        other.start()
        assert told(engine.step()) == [(1, LockingEngine.waits_at + 1)]
        other.join()


def test_texts_are_had_here() -> None:
    with opened() as engine:
        assert (engine.encode("ab", special=False), engine.decode([99]), engine.vocabulary) == ([97, 98], "c", 1000)
        assert engine.chat_prompt([{"role": "user", "content": "x"}]) == "x"


def test_what_the_engine_refuses_is_refused() -> None:
    with pytest.raises(ModelRefusedError, match="too long: 65"):
        EngineProcess(LockingEngine, LockingTexts, EngineSettings(Path(), 65, 4, 1))


def test_a_process_that_ends_fails_the_engine() -> None:
    with opened() as engine:
        engine.add(1, [LockingEngine.ends_at], Sampling(5))
        with pytest.raises(RuntimeError, match="ended with exit status -9"):
            engine.step()


def test_the_process_goes_when_nobody_is_at_the_other_end() -> None:
    with opened() as engine:
        engine.add(1, [10], Sampling(10**6))
        engine.step()
        engine._pipe.close()
        assert engine._process.wait(30) == 0
