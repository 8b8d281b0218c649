"""`make test`: every check of the project, in the order in which they fail soonest, with the time each took.

The cluster is brought up if it isn't there, and taken down again if it was not there before.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from hack.cluster import binaries
from hack.cluster.cli import cluster
from hack.cluster.shell import REPOSITORY

BIN = Path(sys.executable).parent
CLUSTER = [sys.executable, "hack/cluster"]
PYTEST = [str(BIN / "pytest"), "--quiet", "--durations=5"]
SIDE_BY_SIDE = [*PYTEST, "--numprocesses=auto", "--maxprocesses=4", "--dist=loadgroup"]
"""For tests that share nothing, but for those of an xdist_group: these stay together, in their order."""

_started = time.monotonic()


def step(title: str, *command: str | Path) -> None:
    """Runs one check; ends all with its exit code if it fails."""
    began = time.monotonic()
    print(f"== {title} [{began - _started:.0f} s]", flush=True)
    done = subprocess.run([str(word) for word in command], cwd=REPOSITORY, check=False)
    print(f"   {title}: {'ok' if done.returncode == 0 else 'FAILED'} in {time.monotonic() - began:.0f} s", flush=True)
    if done.returncode:
        sys.exit(done.returncode)


def cluster_is_up() -> bool:
    """Whether a cluster answers already."""
    kubeconfig = cluster().kubeconfig
    command = [
        str(binaries.one("kubectl")),
        "--kubeconfig",
        str(kubeconfig),
        "get",
        "--raw",
        "/readyz",
        "--request-timeout=5s",
    ]
    return kubeconfig.exists() and subprocess.run(command, capture_output=True, check=False).returncode == 0


def main() -> None:
    """Runs the checks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only what takes seconds and needs nothing built")
    quick = parser.parse_args().quick

    step("lint", BIN / "ruff", "check", ".")
    step("format", BIN / "ruff", "format", "--check", ".")
    step("types", BIN / "mypy")
    step("layers", BIN / "lint-imports")
    if quick:
        step("unit and golden tests", *SIDE_BY_SIDE, "tests/unit", "tests/golden")
        return
    step("cluster binaries (minutes, once a machine)", *CLUSTER, "binaries")
    step("llama.cpp (minutes, once a machine)", *CLUSTER, "llamacpp")
    step("unit, golden and chart tests", *SIDE_BY_SIDE, "tests/unit", "tests/golden", "tests/chart")
    step("tests on real engines", *SIDE_BY_SIDE, "tests/engines")
    step("tests on an API server", *SIDE_BY_SIDE, "tests/apiserver")
    step("fault tests", *SIDE_BY_SIDE, "tests/faults")
    step("images (minutes, once a machine)", *CLUSTER, "images")
    was_up = cluster_is_up()
    step("cluster", *CLUSTER, "up")
    try:
        step("end-to-end tests", *PYTEST, "tests/e2e")
    finally:
        if not was_up:
            step("cluster down", *CLUSTER, "down")
    print(f"== all checks passed in {time.monotonic() - _started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
