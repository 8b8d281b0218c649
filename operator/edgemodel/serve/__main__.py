"""`python -m edgemodel.serve ENGINE`: serves the model in MODEL_DIR, as the operator's pods and Macs do.

Environment: MODEL_DIR, MODEL_NAME, PORT, TASK, CONTEXT_LENGTH, PARALLEL, THREADS, DRAIN_SECONDS and POWER_MODE as the
operator sets them; HOST, all addresses if left out; DEVICE, in the engine's own words.
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from edgemodel.serve.app import Front
from edgemodel.serve.batcher import Batcher
from edgemodel.serve.embedding_batcher import EmbeddingBatcher
from edgemodel.serve.embedding_front import EmbeddingFront
from edgemodel.serve.engine import EngineSettings, embedder_maker, engine_maker
from edgemodel.serve.engine_process import EngineProcess
from edgemodel.serve.server import GracefulServer
from edgemodel.serve.text_front import TextFront

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
        power_mode=environ.get("POWER_MODE", ""),
    )


def front_of(engine: str, environ: Mapping[str, str], engine_failed: Callable[[], None]) -> Front[Any]:
    """The front that the operator wants, on the engine of that name. KeyError or ValueError if there is none."""
    settings = settings_of(environ)
    model, context_length, task = environ.get("MODEL_NAME", "model"), settings.context_length, environ.get("TASK")
    if task == "Embeddings":
        embed = partial(embedder_maker(engine), settings)
        return EmbeddingFront(
            model, context_length, EmbeddingBatcher(embed, settings.parallel, _WAITING), engine_failed
        )
    if task in (None, "TextGeneration"):
        make = engine_maker(engine)
        texts = getattr(make, "texts", None)
        generate = partial(EngineProcess, make, texts, settings) if texts else partial(make, settings)
        return TextFront(model, context_length, Batcher(generate, settings.parallel, _WAITING), engine_failed)
    raise ValueError(f"TASK {task}")


def main() -> int:
    """Serves until SIGTERM, then answers what it has begun. The exit code."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s", stream=sys.stderr)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine")
    name = parser.parse_args().engine

    def stop() -> None:
        _log.critical("the engine failed", exc_info=front.failure)
        server.should_exit = True

    try:
        front = front_of(name, os.environ, stop)
    except (KeyError, ValueError) as error:
        _log.error("cannot start the engine %s: %s is missing or wrong", name, error)
        return 2
    server = GracefulServer(
        front.app,
        host=os.environ.get("HOST", "0.0.0.0"),  # noqa: S104 - a pod's only way to be reached
        port=int(os.environ.get("PORT", "8080")),
        drain_seconds=int(os.environ.get("DRAIN_SECONDS", "120")),
    )
    server.run()
    return 1 if front.failure or not server.started else 0


if __name__ == "__main__":
    sys.exit(main())
