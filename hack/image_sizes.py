"""`make image-sizes`: the size of each image that a cluster runs, and what must not be in one.

An image runs as a user that is not root, and carries neither a compiler nor CUDA. What a lower layer has counts, also
where an upper one removes it: every node fetches it. Images are built first if they are not there; with names, those
images are looked at instead.
"""

import argparse
import functools
import re
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from hack.cluster import images
from hack.cluster.shell import ClusterError

COMPILER = re.compile(
    r"(.*-)?(gcc|g\+\+|cc|c\+\+|cc1|cc1plus|clang|clang\+\+|ld|ld\.bfd|ld\.gold|lld|as|nvcc|ptxas|cmake)(-[0-9.]+)?"
)
"""Names of programs that compile, assemble or link, or have others do it, with a target or a version in them or not."""

CUDA = re.compile(
    r"(^|/)(site|dist)-packages/nvidia/|(^|/)lib(cuda|cublas|cudnn|cufft|cufile|cupti|curand|cusolver|cusparse|nccl"
    r"|nvrtc|nvjitlink|torch_cuda|c10_cuda)[^/]*\.(so|a)(\.|$)",
    re.IGNORECASE,
)
"""Paths of NVIDIA's libraries, and of torch's that are linked against them."""

STAND_IN = b"CUDA was left out of this image on purpose"
"""What the library says that stands in for CUDA's (runtime-images/torch/cpu_torch.py)."""


@dataclass(frozen=True)
class Look:
    """What an image turned out to be."""

    user: str
    bytes: int
    faults: tuple[str, ...]


def runs_as_root(user: str) -> bool:
    """Whether an image's `User` is root: also one by name, for Kubernetes can't tell that it is not."""
    number = user.partition(":")[0]
    return not number.isdigit() or int(number) == 0


def file_fault(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> str | None:
    """What is wrong with a file of an image; None if nothing is."""
    name = entry.name.removeprefix("./")
    program = (entry.isreg() and entry.mode & 0o111) or entry.issym()
    if program and COMPILER.fullmatch(Path(name).name):
        return f"a compiler: /{name}"
    if entry.isreg() and CUDA.search(name):
        content = tar.extractfile(entry)
        if content is not None and STAND_IN not in content.read():
            return f"CUDA: /{name}"
    return None


def look(reference: str) -> Look:
    """Reads what is in the image."""
    user = images.user(reference)
    faults = [f"runs as root (USER {user or 'is not set'})"] if runs_as_root(user) else []
    with images.layers(reference) as layers:
        sizes, found = zip(*map(_contents, layers), strict=True)
    return Look(user, sum(sizes), tuple(faults + [fault for each in found for fault in each]))


@functools.cache
def _contents(layer: Path) -> tuple[int, list[str]]:
    """The size of what is in a layer, and its faults."""
    with tarfile.open(layer) as tar:
        entries = [(entry.size, file_fault(tar, entry)) for entry in tar]
    return sum(size for size, _ in entries), [fault for _, fault in entries if fault]


def compressed(reference: str) -> int:
    """Size of the image as registries keep it."""
    with images.layers(reference) as layers:
        return sum(map(_compressed, layers))


@functools.cache
def _compressed(layer: Path) -> int:
    size = 0
    with subprocess.Popen(["gzip", "-1", "--stdout", str(layer)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while part := process.stdout.read(1 << 20):
            size += len(part)
    if process.returncode:
        raise ClusterError(f"gzip of {layer}: exit status {process.returncode}")
    return size


def main() -> None:
    """Prints the report; exits with 1 if an image is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="IMAGE", help="those that are deployed, if left out")
    built = images.build(*(parser.parse_args().names or images.default_names()))
    print("| image | compressed | unpacked | user |\n|---|---|---|---|")
    faults = []
    for name, reference in built.items():
        found = look(reference)
        faults += [f"{name}: {fault}" for fault in found.faults]
        sizes = f"{compressed(reference) / 1e6:.0f} MB | {found.bytes / 1e6:.0f} MB"
        print(f"| {name} | {sizes} | {found.user} |", flush=True)
    print("\n".join(faults) or "None runs as root or carries a compiler or CUDA.")
    sys.exit(bool(faults))


if __name__ == "__main__":
    try:
        main()
    except ClusterError as failure:
        sys.exit(f"image-sizes: {failure}")
