import sys
from pathlib import Path

import pytest

from edgemodel.pipeline.errors import InternalError
from edgemodel.pipeline.toolchain import toolchain
from edgemodel.serve.plugins import plugin

OURS = {"fractions": "fractions:Fraction"}
POINTS = """[edgemodel.toolchains]
stencil = stencil_for_tests:Stencil
fractions = stencil_for_tests:Stencil
"""


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that someone added to an image."""
    described = tmp_path / "stencil-1.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: stencil\nVersion: 1\n")
    (described / "entry_points.txt").write_text(POINTS)
    (tmp_path / "stencil_for_tests.py").write_text("class Stencil: ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "stencil_for_tests", raising=False)


@pytest.mark.usefixtures("added")
def test_a_package_that_was_added_brings_a_toolchain() -> None:
    assert type(toolchain("stencil")).__name__ == "Stencil"


@pytest.mark.usefixtures("added")
def test_what_is_ours_is_not_replaced() -> None:
    assert plugin("edgemodel.toolchains", "fractions", OURS).__name__ == "Fraction"


@pytest.mark.usefixtures("added")
def test_a_toolchain_is_no_engine() -> None:
    with pytest.raises(KeyError, match="stencil"):
        plugin("edgemodel.engines", "stencil", {})


def test_a_toolchain_that_is_not_there_is_said_so() -> None:
    with pytest.raises(InternalError, match="no toolchain 'stencil' in this image"):
        toolchain("stencil")
