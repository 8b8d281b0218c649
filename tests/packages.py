"""Pythons with the packages of our images, for tests on real engines: out of the cache, made on first use.

Making one takes up to some minutes and hundreds of megabytes of downloads. What can't be installed fails the tests:
it could not be installed into an image either.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hack.cluster import cache
from hack.cluster.shell import REPOSITORY

CPU_TORCH = REPOSITORY / "runtime-images" / "cpu_torch.py"


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
    """The Python with the packages of these files of requirements/, torch among them or not. `build` is environment
    that building the packages wants."""
    files = [REPOSITORY / "requirements" / requirement for requirement in requirements]

    def fill(folder: Path) -> None:
        def run(*command: str | Path) -> None:
            subprocess.run(command, env=os.environ | build, check=True)

        run(sys.executable, "-m", "venv", folder)
        pip = (folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes")
        run(*pip, *(part for file in files for part in ("-r", file)))
        if torch:
            (packages,) = folder.glob("lib/python*/site-packages")
            run(sys.executable, CPU_TORCH, packages)

    key = cache.key_of(REPOSITORY, [*files, *([CPU_TORCH] if torch else [])], sys.version)
    return cache.entry(f"venv-{name}", key, fill) / "bin" / "python"
