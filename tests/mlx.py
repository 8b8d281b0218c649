"""A real MLX for tests: a Python with the packages of its images, out of the cache.

Import `mlx` into a conftest to use it. It is made on first use, which takes half a minute and 100 MB of downloads.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from hack.cluster import cache
from hack.cluster.shell import REPOSITORY

REQUIREMENTS = REPOSITORY / "requirements" / "mlx.txt"


@dataclass(frozen=True)
class Mlx:
    """Where it is."""

    python: Path

    @property
    def env(self) -> dict[str, str]:
        """The environment of a process that uses it."""
        return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (REPOSITORY / "operator", REPOSITORY)))}

    def run(self, *arguments: str | Path, folder: Path | None = None) -> str:
        """Runs Python with these arguments, which must succeed. What it printed."""
        done = subprocess.run(
            [self.python, *arguments], cwd=folder, env=self.env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout


def find() -> Mlx:
    """The Python, made now if need be."""
    key = cache.key_of(REPOSITORY, [REQUIREMENTS], sys.version)
    return Mlx(cache.entry("venv-mlx", key, _fill) / "bin" / "python")


def _fill(folder: Path) -> None:
    def run(*command: str | Path) -> None:
        subprocess.run(command, check=True)

    run(sys.executable, "-m", "venv", folder)
    pip = folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes"
    run(*pip, "--only-binary", ":all:", "-r", REQUIREMENTS)


@pytest.fixture(scope="session")
def mlx() -> Mlx:
    """MLX, or why there is none."""
    try:
        return find()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"the packages of requirements/mlx.txt could not be installed: {error}")
