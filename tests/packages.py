"""Pythons with the packages of our images, for tests on real engines: out of the cache, made on first use.

Making one takes up to some minutes and hundreds of megabytes of downloads. What can't be installed fails the tests:
it could not be installed into an image either.
"""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hack.cluster import cache
from hack.cluster.shell import REPOSITORY

CPU_TORCH = REPOSITORY / "runtime-images" / "torch" / "cpu_torch.py"


@dataclass(frozen=True)
class Packages:
    """A Python, and what its processes are told."""

    python: Path
    environ: Mapping[str, str] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        """The environment of a process that uses it."""
        paths = os.pathsep.join(map(str, (REPOSITORY / "operator", REPOSITORY)))
        return {**os.environ, "PYTHONPATH": paths, **self.environ}

    def run(self, *arguments: str | Path, folder: Path | None = None) -> "subprocess.CompletedProcess[str]":
        """Runs Python with these arguments."""
        return subprocess.run(
            [self.python, *arguments], cwd=folder, env=self.env, capture_output=True, text=True, check=False
        )


def installed(name: str, *requirements: str, torch: bool = True, **build: str) -> Path:
    """The Python with the packages of these files of requirements/, those of torch.txt beside them or not. `build` is
    environment that building the packages wants."""
    files = [REPOSITORY / "requirements" / requirement for requirement in requirements]
    below = [_torch()] if torch else []

    def fill(folder: Path) -> None:
        _install(folder, files, build)
        (packages,) = folder.glob("lib/python*/site-packages")
        (packages / "below.pth").write_text("".join(f"{path}\n" for path in below))

    key = cache.key_of(REPOSITORY, files, *map(str, below), sys.version)
    return cache.entry(f"venv-{name}", key, fill) / "bin" / "python"


def _torch() -> Path:
    """The folder of torch and of what comes with it, which several Pythons have in common."""
    requirements = REPOSITORY / "requirements" / "torch.txt"

    def fill(folder: Path) -> None:
        _install(folder, [requirements], {})
        (packages,) = folder.glob("lib/python*/site-packages")
        subprocess.run([sys.executable, CPU_TORCH, packages], check=True)

    key = cache.key_of(REPOSITORY, [requirements, CPU_TORCH], sys.version)
    (packages,) = cache.entry("venv-torch", key, fill).glob("lib/python*/site-packages")
    return packages


def _install(folder: Path, requirements: Sequence[Path], build: Mapping[str, str]) -> None:
    """Makes an environment in the folder with the packages that the files pin."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = (folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes")
    command = (*pip, *(part for file in requirements for part in ("-r", file)))
    subprocess.run(command, env=os.environ | build, check=True)
