"""`make test`: every check of the project, with the time each took.

What fails soonest comes first. The tests on API servers and on the cluster wait for half of their time, and have
deadlines. Those on engines compute, and have what time the others leave: they come last, so that nothing waits for what
could run beside them. So there are two lanes, and in the end a third.
The cluster is brought up if it isn't there, and taken down again if it was not there before.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hack.cluster import binaries, cache
from hack.cluster.cli import cluster
from hack.cluster.shell import REPOSITORY

BIN = Path(sys.executable).parent
CLUSTER = [sys.executable, "hack/cluster"]
PYTEST = [str(BIN / "pytest"), "--quiet", "--durations=5"]
SIDE_BY_SIDE = [*PYTEST, "--numprocesses=auto", "--maxprocesses=4", "--dist=loadgroup"]
"""For tests that share nothing, but for those of an xdist_group: these stay together, in their order."""
WAITING = [*PYTEST, "--numprocesses=3", "--dist=loadgroup"]
"""The same, for tests that wait more than they compute."""
BESIDE = ("tests/apiserver/node", "tests/apiserver/engine")
"""On an API server too. They wait for nearly all of their time: beside what computes."""
BEHIND = ["sh", "-c", '{ echo 19 > /proc/self/autogroup; } 2>/dev/null; exec nice -n 19 "$@"', "behind"]
"""For what computes and has no deadlines, beside what has some. In a session of its own: Linux shares the processors
out among sessions first, and among these and a cluster's pods; what is nice is so only to others of its session."""
SLOWER = ["nice", "-n", "5"]
"""For what has time, beside the cluster: all of these together weigh less than one process of this machine."""
SUMMARY = ("FAILED ", "ERROR ")
"""How a line of pytest's summary begins that names a test."""
ENVIRONMENT = {"COLUMNS": "250", "OMP_WAIT_POLICY": "passive"}
"""So that such a line has room for the reason; and threads of OpenMP's that wait leave the processor to others, which
takes a tenth off the time of tests on engines."""

_started = time.monotonic()
_apart: list[subprocess.Popen[str]] = []
"""What runs in a session of its own, and so hears of no Ctrl-C."""


class CheckFailedError(Exception):
    """Checks failed, and have said why. `summary` has their titles, each with the tests that failed."""

    def __init__(self, summary: list[str]) -> None:
        super().__init__("\n".join(summary))
        self.summary = summary


def step(title: str, *command: str | Path, lane: str = "", apart: bool = False) -> None:
    """Runs one check, in a session of its own or not. Where several run at a time, each line says of which lane it
    is."""
    began = time.monotonic()
    mark = f"{lane:<7} | " if lane else ""
    print(f"{mark}== {title} [{began - _started:.0f} s]", flush=True)
    words = [str(word) for word in command]
    failures = []
    with subprocess.Popen(
        words,
        cwd=REPOSITORY,
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=apart,
    ) as check:
        assert check.stdout is not None
        _apart.extend([check] if apart else [])
        for line in check.stdout:
            print(f"{mark}{line}", end="", flush=True)
            if line.startswith(SUMMARY):
                failures.append(line.rstrip())
    verdict = "FAILED" if check.returncode else "ok"
    print(f"{mark}   {title}: {verdict} in {time.monotonic() - began:.0f} s", flush=True)
    if check.returncode:
        raise CheckFailedError([f"== FAILED: {title}", *failures])


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


def quick() -> None:
    """What takes seconds and needs nothing built."""
    step("lint", BIN / "ruff", "check", ".")
    step("format", BIN / "ruff", "format", "--check", ".")
    step("types", BIN / "mypy", "--cache-dir", cache.root() / "mypy")
    step("layers", BIN / "lint-imports")


def here() -> None:
    """What needs no cluster."""
    step(
        "unit, golden and chart tests",
        *SIDE_BY_SIDE,
        *("tests/unit", "tests/golden", "tests/chart"),
        lane="here",
    )
    step("fault tests", *SLOWER, *WAITING, "tests/faults", lane="here")
    together(
        lambda: step("tests on real engines", *BEHIND, *SIDE_BY_SIDE, "tests/engines", lane="here", apart=True),
        lambda: step("tests of the agent and of the engine room", *WAITING, *BESIDE, lane="agent"),
    )


def on_clusters() -> None:
    """An API server for each process of the tests, and then the cluster."""
    step(
        "tests on an API server",
        *WAITING,
        "tests/apiserver",
        *(f"--ignore={folder}" for folder in BESIDE),
        lane="cluster",
    )
    was_up = cluster_is_up()
    step("cluster", *CLUSTER, "up", lane="cluster")
    try:
        step("end-to-end tests", *PYTEST, "tests/e2e", lane="cluster")
    finally:
        if not was_up:
            step("cluster down", *CLUSTER, "down", lane="cluster")


def together(*lanes: Callable[[], None]) -> None:
    """Runs them at a time, each to its end, whatever becomes of the others. `CheckFailedError` if one failed."""
    with ThreadPoolExecutor(len(lanes)) as pool:
        running = [pool.submit(lane) for lane in lanes]
    summary: list[str] = []
    for lane in running:
        try:
            lane.result()
        except CheckFailedError as error:
            summary += error.summary
    if summary:
        raise CheckFailedError(summary)


def everything() -> None:
    """All checks."""
    quick()
    step("cluster binaries (minutes, once a machine)", *CLUSTER, "binaries")
    step("llama.cpp (minutes, once a machine)", *CLUSTER, "llamacpp")
    step("images (minutes, once a machine)", *CLUSTER, "images")
    together(here, on_clusters)


def main() -> None:
    """Runs the checks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only what takes seconds and needs nothing built")
    try:
        if parser.parse_args().quick:
            quick()
            step("unit and golden tests", *SIDE_BY_SIDE, "tests/unit", "tests/golden")
        else:
            everything()
    except CheckFailedError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        for check in _apart:
            if check.poll() is None:
                os.killpg(check.pid, signal.SIGINT)
        sys.exit("interrupted")
    print(f"== all checks passed in {time.monotonic() - _started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
