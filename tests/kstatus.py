"""What GitOps tools take the status of an object to be: the real kstatus, a small Go program around its library."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hack.cluster import binaries, cache
from hack.cluster.shell import REPOSITORY, run_long

_MODULE = REPOSITORY / "hack" / "kstatus"


def _program() -> Path:
    def build(into: Path) -> None:
        flags = ("-mod=readonly", "-trimpath", "-buildvcs=false")
        command = (binaries.go(), "build", *flags, "-o", f"{into}/kstatus", ".")
        run_long("building kstatus", *command, log=cache.root() / "kstatus.log", env={"CGO_ENABLED": "0"}, cwd=_MODULE)

    return cache.entry("kstatus", cache.key_of(_MODULE, [_MODULE]), build) / "kstatus"


def kstatus(obj: Mapping[str, Any]) -> str:
    """InProgress, Failed, Current, Terminating, NotFound or Unknown."""
    done = subprocess.run([_program()], input=json.dumps(obj), capture_output=True, text=True, check=True)
    return done.stdout.partition("\t")[0]
