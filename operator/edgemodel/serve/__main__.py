"""`python -m edgemodel.serve ENGINE`: serves the model in MODEL_DIR, as the operator's pods and Macs do.

Environment: MODEL_DIR, MODEL_NAME, PORT, CONTEXT_LENGTH, PARALLEL, THREADS and DRAIN_SECONDS as the operator sets them;
HOST, all addresses if left out; DEVICE, in the engine's own words.
"""

import argparse
import logging
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from edgemodel.serve.app import Front
from edgemodel.serve.batcher import Batcher
from edgemodel.serve.engine import EngineSettings, engine_maker
from edgemodel.serve.server import GracefulServer

_log = logging.getLogger(__name__)
_WAITING = 64
"""Requests that may wait: more would be answered so late that a client is better told at once."""


def settings_of(environ: Mapping[str, str]) -> EngineSettings:
    """How the operator wants the engine."""
    return EngineSettings(
        model_dir=Path(environ["MODEL_DIR"]),
        context_length=int(environ["CONTEXT_LENGTH"]),
        parallel=int(environ.get("PARALLEL", "1")),
        threads=int(environ.get("THREADS", "1")),
        device=environ.get("DEVICE", ""),
    )


def main() -> int:
    """Serves until SIGTERM, then answers what it has begun. The exit code."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s", stream=sys.stderr)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine")
    name = parser.parse_args().engine
    try:
        settings = settings_of(os.environ)
        make = engine_maker(name)
    except (KeyError, ValueError) as error:
        _log.error("cannot start the engine %s: %s is missing or wrong", name, error)
        return 2
    batcher = Batcher(partial(make, settings), settings.parallel, _WAITING)

    def stop() -> None:
        _log.critical("the engine failed", exc_info=batcher.failure)
        server.should_exit = True

    front = Front(os.environ.get("MODEL_NAME", "model"), settings.context_length, batcher, stop)
    server = GracefulServer(
        front.app,
        host=os.environ.get("HOST", "0.0.0.0"),  # noqa: S104 - a pod's only way to be reached
        port=int(os.environ.get("PORT", "8080")),
        drain_seconds=int(os.environ.get("DRAIN_SECONDS", "120")),
    )
    server.run()
    return 1 if batcher.failure or not server.started else 0


if __name__ == "__main__":
    sys.exit(main())
