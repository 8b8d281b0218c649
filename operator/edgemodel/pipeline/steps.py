"""Steps of a toolchain that take a process each: a Job must be able to end them, their packages take memory that they
never give back, and some of those end the process where something surprises them.

`python -m edgemodel.pipeline.steps MODULE:FUNCTION ARGUMENTS` takes a step. Among what its packages say are lines of
ours: `edgemodel progress SHARE`, and at the end `edgemodel result RESULT`, or `edgemodel error` and the error as JSON.
"""

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from pkgutil import resolve_name

from edgemodel.pipeline.children import ChildFailedError, run_child
from edgemodel.pipeline.errors import PipelineError
from edgemodel.pipeline.progress import Step

_PROGRESS = re.compile(r"^edgemodel progress (?P<share>[\d.]+)")
_RESULT = re.compile(r"^edgemodel result ?(?P<result>.*)$", re.MULTILINE)
_ERROR = re.compile(r"^edgemodel error (?P<termination>.*)$", re.MULTILINE)


def run_step(
    step: str,
    *arguments: str | Path,
    work: Path,
    environ: Mapping[str, str],
    hear: Callable[[str], None] = lambda _: None,
) -> str:
    """Takes a step, `MODULE:FUNCTION`, in a process in the folder `work`. Returns its result. The `PipelineError` that
    the step raised is raised; if it ended without a result and an error of ours, `ChildFailedError`."""
    command = [sys.executable, "-m", "edgemodel.pipeline.steps", step, *arguments]
    try:
        said = run_child(command, work, hear, **environ)
    except ChildFailedError as error:
        if found := _ERROR.search(error.tail):
            raise PipelineError.of(found["termination"]) from None
        raise
    found = _RESULT.search(said)
    if not found:
        raise ChildFailedError(0, said)
    return found["result"]


def shares(step: Step, start: float = 0.0, width: float = 1.0) -> Callable[[str], None]:
    """Hears how far a process is that takes this much of a Job's step."""

    def hear(line: str) -> None:
        if found := _PROGRESS.search(line):
            step.share(start + width * float(found["share"]))

    return hear


def tell(share: float) -> None:
    """In a step: such a part of it is done, from 0 to 1."""
    _say("progress", str(share))


def main() -> None:
    """Takes the step that the command line names: a function of texts that returns its result, one line, or nothing."""
    step, *arguments = sys.argv[1:]
    try:
        _say("result", resolve_name(step)(*arguments) or "")
    except PipelineError as error:
        _say("error", error.termination())
        sys.exit(1)


def _say(what: str, text: str) -> None:
    """In a line of its own, also where a package shows its progress in one that is not finished."""
    print(f"\nedgemodel {what} {text}", flush=True)


if __name__ == "__main__":
    main()
