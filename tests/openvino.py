"""A real OpenVINO for tests: a Python with the packages of both its images, out of the cache.

Import `openvino` into a conftest to use it. It is made on first use, which takes minutes and 800 MB of downloads.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from hack.cluster import cache
from hack.cluster.shell import REPOSITORY

REQUIREMENTS = [REPOSITORY / "requirements" / name for name in ("openvino.txt", "openvino-serve.txt")]
CPU_TORCH = REPOSITORY / "runtime-images" / "cpu_torch.py"


@dataclass(frozen=True)
class OpenVino:
    """Where it is."""

    python: Path

    @property
    def env(self) -> dict[str, str]:
        """The environment of a process that uses it."""
        return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (REPOSITORY / "operator", REPOSITORY)))}

    def run(self, *arguments: str | Path, folder: Path | None = None) -> "subprocess.CompletedProcess[str]":
        """Runs Python with these arguments."""
        return subprocess.run(
            [self.python, *arguments], cwd=folder, env=self.env, capture_output=True, text=True, check=False
        )


def find() -> OpenVino:
    """The Python, made now if need be."""
    key = cache.key_of(REPOSITORY, [*REQUIREMENTS, CPU_TORCH], sys.version)
    return OpenVino(cache.entry("venv-openvino", key, _fill) / "bin" / "python")


def _fill(folder: Path) -> None:
    def run(*command: str | Path) -> None:
        subprocess.run(command, check=True)

    files = [part for file in REQUIREMENTS for part in ("-r", file)]
    run(sys.executable, "-m", "venv", folder)
    run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", *files)
    (packages,) = folder.glob("lib/python*/site-packages")
    run(sys.executable, CPU_TORCH, packages)


@pytest.fixture(scope="session")
def openvino() -> OpenVino:
    """OpenVINO, or why there is none."""
    try:
        return find()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"the packages of requirements/openvino*.txt could not be installed: {error}")
