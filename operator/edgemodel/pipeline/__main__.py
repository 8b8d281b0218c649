"""The quantization Job: `python -m edgemodel.pipeline` makes EDGEMODEL_JOB and answers by its termination message."""

import os
import signal
import sys
from types import FrameType

from edgemodel.pipeline.children import kill_children
from edgemodel.pipeline.errors import translate
from edgemodel.pipeline.job import run
from edgemodel.pipeline.termination import log, terminate


def main() -> int:
    """Runs the Job; returns the exit code."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        result = run()
    except Exception as error:
        failure = translate(error)
        log("the job failed", reason=failure.reason, error=str(failure), retry=failure.retry)
        terminate(failure.termination())
        return 1
    message = result.model_dump_json(by_alias=True, exclude_none=True)
    log("the job succeeded", **result.dump())
    terminate(message)
    return 0


def _stop(number: int, _: FrameType | None) -> None:
    """Ends at once: uploads and downloads under way are worth nothing, and whatever was published is whole."""
    kill_children()
    os._exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
