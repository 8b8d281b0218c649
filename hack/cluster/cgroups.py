"""The control groups below which the native cluster's pods run: one tree of its own, in version 1 and version 2.

It also is how every process of a pod is found again: by the group that it was born into, not by its name.
"""

from collections.abc import Iterator
from pathlib import Path

from hack.cluster.processes import end
from hack.cluster.shell import ClusterError, mounts, wait_for

NAME = "edgemodel"


def make(node: str) -> str:
    """Makes the node's group. Returns its path, as the kubelet wants it."""
    for root, version in _hierarchies():
        group = root / NAME / node
        group.mkdir(parents=True, exist_ok=True)
        if version == 2:
            _delegate(root)
            _delegate(root / NAME)
    return f"/{NAME}/{node}"


def processes() -> set[int]:
    """The processes that run in the tree."""
    files = (file for root, _ in _hierarchies() for file in (root / NAME).rglob("cgroup.procs"))
    return {int(pid) for file in files for pid in file.read_text().split()}


def remove() -> None:
    """Ends what runs in the tree, and takes the tree away."""
    for pid in processes():
        end(pid)
    wait_for("the end of the pods' processes", lambda: not processes(), timeout=20)
    for root, _ in _hierarchies():
        for group in sorted((root / NAME).rglob("*/"), reverse=True):
            group.rmdir()
        if (root / NAME).exists():
            (root / NAME).rmdir()


def _hierarchies() -> Iterator[tuple[Path, int]]:
    """The mounted hierarchies with their version; a host may have both."""
    for where, kind in mounts():
        if kind in ("cgroup", "cgroup2"):
            yield where, 2 if kind == "cgroup2" else 1


def _delegate(group: Path) -> None:
    """Lets the groups below use every controller of this one."""
    control = group / "cgroup.subtree_control"
    missing = set((group / "cgroup.controllers").read_text().split()) - set(control.read_text().split())
    try:
        control.write_text(" ".join(f"+{controller}" for controller in sorted(missing)))
    except OSError as error:
        raise ClusterError(f"{group}: its controllers cannot be delegated ({error}); is this a container?") from error
