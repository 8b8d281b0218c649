"""Steps in real processes, of a module that each test's folder has."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgemodel.api.artifact import Progress
from edgemodel.pipeline import errors
from edgemodel.pipeline.children import ChildFailedError
from edgemodel.pipeline.progress import Reporter
from edgemodel.pipeline.steps import run_step, shares
from hack.cluster.shell import REPOSITORY

STEPS = """
import os, signal, sys
from edgemodel.pipeline import errors
from edgemodel.pipeline.steps import tell

def join(*words):
    return " ".join(words)

def nothing():
    print("result of a package")

def halfway():
    print("50%|###", end="", file=sys.stderr, flush=True)
    tell(0.5)
    print("51%|###", end="", file=sys.stderr, flush=True)
    return "done"

def fail(reason, message):
    print("a package's last words are not flushed")
    raise getattr(errors, reason)(message)

def crash():
    raise ValueError("why")

def exit():
    print("surprised")
    sys.exit(0)

def killed():
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder in which a step finds the module."""
    (tmp_path / "taken.py").write_text(STEPS)
    return tmp_path


def take(name: str, *arguments: str, work: Path, hear: Callable[[str], None] = lambda _: None) -> str:
    environ = {"PYTHONPATH": str(REPOSITORY / "operator")}
    return run_step(f"taken:{name}", *arguments, work=work, hear=hear, environ=environ)


def pipeline_errors(kind: type[errors.PipelineError] = errors.PipelineError) -> Iterator[type[errors.PipelineError]]:
    for each in kind.__subclasses__():
        yield each
        yield from pipeline_errors(each)


def test_a_step_returns_its_result(work: Path) -> None:
    assert take("join", "one", "zwölf", work=work) == "one zwölf"


def test_a_step_may_have_none(work: Path) -> None:
    assert take("nothing", work=work) == ""


def test_how_far_it_is_is_its_share_of_a_part_of_the_job(work: Path) -> None:
    told: list[Progress] = []
    reporter = Reporter(told.append)
    assert take("halfway", work=work, hear=shares(reporter.step("Evaluate"), 0.5, 0.5)) == "done"
    reporter.close()
    assert told[-1].percent == 75


@pytest.mark.parametrize("kind", [errors.UnsupportedArchitectureError, errors.PickleRefusedError])
def test_an_error_of_ours_is_raised_as_it_was(work: Path, kind: type[errors.PipelineError]) -> None:
    with pytest.raises(kind) as caught:
        take("fail", kind.__name__, 'two\nlines: "use another"', work=work)
    assert str(caught.value) == 'two\nlines: "use another"'


@pytest.mark.parametrize("kind", list(pipeline_errors()), ids=lambda kind: kind.__name__)
def test_every_error_can_be_told_by_its_reason(kind: type[errors.PipelineError]) -> None:
    found = errors.PipelineError.of(kind("why").termination())
    assert type(found) is kind
    assert str(found) == "why"


def test_a_crash_is_told_by_its_last_words(work: Path) -> None:
    with pytest.raises(ChildFailedError) as caught:
        take("crash", work=work)
    assert caught.value.last_words == "ValueError: why"


def test_a_step_that_is_not_there_is_a_crash(work: Path) -> None:
    with pytest.raises(ChildFailedError, match="exit status 1"):
        take("none", work=work)


def test_a_step_that_a_package_ends_without_a_result_failed(work: Path) -> None:
    with pytest.raises(ChildFailedError) as caught:
        take("exit", work=work)
    assert caught.value.last_words == "surprised"


def test_a_step_that_was_killed_ran_out_of_memory(work: Path) -> None:
    with pytest.raises(errors.OutOfMemoryError):
        take("killed", work=work)
