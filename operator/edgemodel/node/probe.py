"""What this node is made of: `python -m edgemodel.node.probe` leaves it as its termination message, as JSON.

The operator reads it there and labels the node, so that the probe needs no access to the API. It reads /proc and /sys
alone, as any container may.
"""

import json
from pathlib import Path

from edgemodel.core.facts import processor_facts, snapdragon_facts
from edgemodel.pipeline.termination import terminate

CPUINFO = Path("/proc/cpuinfo")
MACHINE = Path("/sys/devices/soc0/machine")


def facts() -> dict[str, str]:
    """Label -> value."""
    soc = MACHINE.read_text(errors="replace") if MACHINE.exists() else ""
    return processor_facts(CPUINFO.read_text(errors="replace")) | snapdragon_facts(soc)


def main() -> None:
    """Tells it."""
    terminate(json.dumps({"facts": facts()}, sort_keys=True))


if __name__ == "__main__":
    main()
