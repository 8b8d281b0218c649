"""How a pod speaks: JSON lines while it runs, one JSON object when it ends."""

import json
import os
import sys
from pathlib import Path


def log(message: str, **fields: object) -> None:
    """One JSON line on the standard output, in one write: several threads speak."""
    sys.stdout.write(json.dumps({"message": message, **fields}) + "\n")
    sys.stdout.flush()


def terminate(message: str) -> None:
    """Leaves the termination message where Kubernetes reads it."""
    place = Path(os.environ.get("EDGEMODEL_TERMINATION_LOG") or "/dev/termination-log")
    try:
        place.write_text(message)
    except OSError as error:
        print(f"{place} cannot be written: {type(error).__name__}", file=sys.stderr)
