"""What must be remembered of a pod, so that an agent that was killed goes on where it was."""

import json
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgemodel.core.objects import FETCH, SERVE
from edgemodel.engine.objects import Object
from edgemodel.node.lifecycle import CRASHES_FORGOTTEN_AFTER, wait_before
from edgemodel.node.processes import Run
from edgemodel.node.shim import write_json

RECORD = "pod.json"


@dataclass
class Counts:
    """How often a container was started, and how often of late it ended too soon."""

    attempt: int = 0
    judged: int = 0
    """The last run whose end was counted."""
    crashes: int = 0
    last: dict[str, Any] | None = None
    """The run before this one."""

    @property
    def restarts(self) -> int:
        """As in a pod's status."""
        return max(0, self.attempt - 1)

    def judge(self, run: Run) -> bool:
        """Counts the end of a run, once. Whether it is new."""
        if run.going_on or run.attempt <= self.judged:
            return False
        lasted = seconds_of(run.finished) - seconds_of(run.started)
        self.judged, self.crashes = run.attempt, 1 if lasted > CRASHES_FORGOTTEN_AFTER else self.crashes + 1
        return True

    def wait(self, run: Run | None) -> float:
        """Seconds until it may be started again."""
        if run is None or run.going_on:
            return 0.0
        return wait_before(self.crashes) - (time.time() - seconds_of(run.finished))


@dataclass
class Record:
    """What must be remembered of a pod."""

    namespace: str
    name: str
    uid: str
    accepted_at: str
    address: str = ""
    memory: int = 0
    runtime: dict[str, Any] | None = None
    """The EdgeRuntime by which it was admitted: a later one does not touch it."""
    refusal: tuple[str, str] | None = None
    fetch: Counts = field(default_factory=Counts)
    serve: Counts = field(default_factory=Counts)

    @classmethod
    def of(cls, pod: Object) -> "Record":
        """Of a pod that is new here."""
        metadata = pod["metadata"]
        return cls(metadata["namespace"], metadata["name"], metadata["uid"], whole_seconds())

    @classmethod
    def read(cls, folder: Path) -> "Record | None":
        """What the agent that was here before wrote; None if it didn't come to that."""
        try:
            found = json.loads((folder / RECORD).read_text())
            refusal = found["refusal"] and tuple(found["refusal"])
            counts = {name: Counts(**found[name]) for name in (FETCH, SERVE)}
            return cls(**found | counts | {"refusal": refusal})
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def write(self, folder: Path) -> None:
        """Keeps it."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_json(folder / RECORD, asdict(self))


def seconds_of(moment: str) -> float:
    """A time as it is told, in seconds since 1970."""
    return datetime.fromisoformat(moment).timestamp()


def whole_seconds() -> str:
    """The time as objects have it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
