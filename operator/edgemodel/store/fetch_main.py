"""The init container: fetches the artifact that the environment names, and says in the termination log how it went."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

from edgemodel.store.artifacts import ArtifactStore
from edgemodel.store.config import StoreConfig
from edgemodel.store.errors import StoreConfigError, StoreError
from edgemodel.store.fetch import fetch

_LOG_SECONDS = 5.0


def main() -> None:
    """Fetches EDGEMODEL_ARTIFACT_KEY with the digest EDGEMODEL_ARTIFACT_DIGEST to EDGEMODEL_MODEL_DIR."""
    signal.signal(signal.SIGTERM, _stop)
    started = time.monotonic()
    try:
        key, digest, folder = map(_setting, ("ARTIFACT_KEY", "ARTIFACT_DIGEST", "MODEL_DIR"))
        store = ArtifactStore(StoreConfig.from_env())
        manifest = fetch(store, key, digest, Path(folder), _Log(), _waits)
    except StoreError as error:
        _end(error.reason, str(error), error.retry)
    except Exception as error:
        _end("FetchFailed", f"{type(error).__name__}: {error}", retry=False)
    seconds = round(time.monotonic() - started, 3)
    _terminate({"bytes": manifest.size, "seconds": seconds})


class _Log:
    """Progress, a line now and then."""

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, done: int, total: int) -> None:
        if done == total or time.monotonic() >= self._next:
            self._next = time.monotonic() + _LOG_SECONDS
            _log({"event": "progress", "bytesDone": done, "bytesTotal": total})


def _waits(error: StoreError) -> None:
    _log({"event": "waiting", "message": str(error)})


def _setting(name: str) -> str:
    value = os.environ.get(f"EDGEMODEL_{name}")
    if not value:
        raise StoreConfigError(f"EDGEMODEL_{name} is not set")
    return value


def _stop(_signal: int, _frame: FrameType | None) -> NoReturn:
    # Nothing needs to be put in order: what has arrived is found and verified next time.
    _terminate({"reason": "Stopped", "message": "stopped before the artifact was whole", "retry": True})
    os._exit(128 + signal.SIGTERM)


def _end(reason: str, message: str, retry: bool) -> NoReturn:
    _terminate({"reason": reason, "message": message, "retry": retry})
    sys.exit(1)


def _terminate(outcome: dict[str, object]) -> None:
    """The kubelet takes the last words of a container from this file, and no more than 4096 bytes of them."""
    Path(os.environ.get("EDGEMODEL_TERMINATION_LOG", "/dev/termination-log")).write_text(json.dumps(outcome))
    _log({"event": "end"} | outcome)


def _log(line: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")  # in one write: several threads speak
    sys.stdout.flush()
