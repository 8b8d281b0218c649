"""A real llama.cpp for tests: the image's programs, and a Python with the image's packages, both out of the cache.

Import `llamacpp` into a conftest to use it. The Python is made on first use, which takes a minute and 600 MB of
downloads; the programs only `python3 hack/cluster llamacpp` makes, in many minutes.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from hack.cluster import cache
from hack.cluster.shell import REPOSITORY

REQUIREMENTS = REPOSITORY / "requirements" / "llamacpp.txt"
CPU_TORCH = REPOSITORY / "runtime-images" / "cpu_torch.py"


@dataclass(frozen=True)
class LlamaCpp:
    """Where it is."""

    home: Path
    """What the image has at /opt/llama.cpp."""
    python: Path

    @property
    def env(self) -> dict[str, str]:
        """The environment of a process that uses it."""
        return {
            **os.environ,
            "LLAMACPP_HOME": str(self.home),
            "LLAMA_CPP_LIB_PATH": str(self.home / "lib"),
            "PYTHONPATH": os.pathsep.join(map(str, (REPOSITORY / "operator", REPOSITORY))),
        }

    def run(self, *arguments: str | Path, folder: Path | None = None) -> "subprocess.CompletedProcess[str]":
        """Runs Python with these arguments."""
        return subprocess.run(
            [self.python, *arguments], cwd=folder, env=self.env, capture_output=True, text=True, check=False
        )

    def program(self, name: str, *arguments: str | Path, folder: Path) -> str:
        """Runs one of llama.cpp's programs, which must succeed."""
        return subprocess.run(
            [self.home / "bin" / name, *arguments], cwd=folder, capture_output=True, text=True, check=True
        ).stdout


def find() -> LlamaCpp | None:
    """The programs, if they were built, and the Python, made now if need be."""
    homes = sorted(cache.root().glob("llamacpp-*/bin/llama-perplexity"), key=lambda path: path.stat().st_mtime)
    if not homes:
        return None
    key = cache.key_of(REPOSITORY, [REQUIREMENTS, CPU_TORCH], sys.version)
    return LlamaCpp(homes[-1].parent.parent, cache.entry("venv-llamacpp", key, _fill) / "bin" / "python")


def _fill(folder: Path) -> None:
    def run(*command: str | Path) -> None:
        subprocess.run(command, env=os.environ | {"CMAKE_ARGS": "-DLLAMA_BUILD=OFF"}, check=True)

    run(sys.executable, "-m", "venv", folder)
    run(
        folder / "bin" / "python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--require-hashes",
        "-r",
        REQUIREMENTS,
    )
    (packages,) = folder.glob("lib/python*/site-packages")
    run(sys.executable, CPU_TORCH, packages)


@pytest.fixture(scope="session")
def llamacpp() -> LlamaCpp:
    """llama.cpp, or why there is none."""
    found = find()
    if found is None:
        pytest.skip("llama.cpp is not built: `python3 hack/cluster llamacpp` builds it into $EDGEMODEL_CACHE")
    return found
