"""The resolver: `python -m edgemodel.pipeline.resolve_main` pins EDGEMODEL_SOURCE.

It answers by its termination message. It runs in the operator's small image, so it imports nothing of any toolchain.
"""

import os
import signal
import sys

from pydantic import ValidationError

from edgemodel.api.artifact import Source
from edgemodel.pipeline.adapter import AdapterFiles
from edgemodel.pipeline.errors import InternalError, translate
from edgemodel.pipeline.resolve import resolve
from edgemodel.pipeline.sources import open_adapter, open_source
from edgemodel.pipeline.termination import log, terminate

MAX_MESSAGE = 4096
"""Kubernetes keeps no more of a termination message."""


def main() -> int:
    """Resolves; returns the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    try:
        source = _source()
        found, adapter = resolve(open_source(source)), open_adapter(source)
        resolved = (AdapterFiles.of(adapter).pinned(found) if adapter else found).resolved
        message = resolved.model_dump_json(by_alias=True, exclude_none=True)
        if len(message.encode()) > MAX_MESSAGE:
            raise InternalError("what the source's headers say does not fit a termination message")
    except Exception as error:
        failure = translate(error)
        log("resolver failed", reason=failure.reason, error=str(failure))
        terminate(failure.termination())
        return 1
    log("resolved", digest=resolved.digest, revision=resolved.revision, bytes=resolved.bytes)
    terminate(message)
    return 0


def _source() -> Source:
    try:
        return Source.model_validate_json(os.environ.get("EDGEMODEL_SOURCE", ""))
    except ValidationError:
        raise InternalError(
            "EDGEMODEL_SOURCE is no source: the operator and this image are of different versions"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
