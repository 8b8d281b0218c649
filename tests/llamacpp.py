"""A real llama.cpp for tests: the image's programs, and a Python with the image's packages, both out of the cache.

Import `llamacpp` into a conftest to use it. The Python is made on first use; the programs only `python3 hack/cluster
llamacpp` makes, in many minutes.
"""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from hack.cluster import cache
from tests.packages import Packages, installed


@dataclass(frozen=True)
class LlamaCpp(Packages):
    """A Python with the binding, and the programs."""

    home: Path = Path()
    """What the image has at /opt/llama.cpp."""

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
    home = homes[-1].parent.parent
    python = installed("llamacpp", "llamacpp.txt", CMAKE_ARGS="-DLLAMA_BUILD=OFF")
    return LlamaCpp(python, {"LLAMACPP_HOME": str(home), "LLAMA_CPP_LIB_PATH": str(home / "lib")}, home)


@pytest.fixture(scope="session")
def llamacpp() -> LlamaCpp:
    """llama.cpp, or why there is none."""
    found = find()
    if found is None:
        pytest.skip("llama.cpp is not built: `python3 hack/cluster llamacpp` builds it into $EDGEMODEL_CACHE")
    return found
