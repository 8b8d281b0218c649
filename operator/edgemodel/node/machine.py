"""The machine that the agent is on."""

import os
import platform
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import psutil

from edgemodel import __version__

_ARCH = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Machine:
    """What it is and has, as seen at one time. None is what could not be read."""

    os: str
    arch: str
    cpus: int
    memory: int | None
    memory_left: int | None
    disk_left: int | None
    info: Mapping[str, str] = field(default_factory=dict)
    """As in a node's `nodeInfo`."""


def look(folder: Path) -> Machine:
    """The machine now; its disk is the one that the folder is on."""
    memory = memory_left = disk_left = None
    try:
        seen = psutil.virtual_memory()
        memory, memory_left = int(seen.total), int(seen.available)
        disk_left = int(psutil.disk_usage(str(folder)).free)
    except (OSError, psutil.Error, RuntimeError):
        pass  # told as not known
    info = _info()
    return Machine(
        os=info["operatingSystem"],
        arch=info["architecture"],
        cpus=os.cpu_count() or 1,
        memory=memory or None,
        memory_left=memory_left,
        disk_left=disk_left,
        info=info,
    )


@cache
def _info() -> Mapping[str, str]:
    machine, mac = platform.machine(), platform.mac_ver()[0]
    identity = f"{uuid.getnode():012x}"
    return {
        "architecture": _ARCH.get(machine, machine),
        "operatingSystem": platform.system().lower(),
        "kernelVersion": platform.release(),
        "osImage": f"macOS {mac}" if mac else platform.platform(terse=True),
        "machineID": identity,
        "systemUUID": identity,
        "bootID": f"{identity}-{int(psutil.boot_time())}",
        "kubeletVersion": f"edgemodel-node-{__version__}",
        "containerRuntimeVersion": f"native://{__version__}",
    }
