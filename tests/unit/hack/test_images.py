"""What the project's images are made of."""

from pathlib import Path

import pytest

from hack.cluster.images import KNOWN, Image
from hack.cluster.shell import REPOSITORY

PIPELINES = [name for name, image in KNOWN.items() if KNOWN["torch"] in image.parts() and image.stage == "pipeline"]


def pins(name: str) -> set[str]:
    """The packages that a file of requirements/ pins."""
    lines = (REPOSITORY / "requirements" / f"{name}.txt").read_text().splitlines()
    return {line.partition("==")[0] for line in lines if line[:1].isalpha()}


def test_an_image_is_made_of_stages_of_its_own_and_of_images_that_it_names() -> None:
    assert {part.name for part in KNOWN["qnn-pipeline"].parts()} == {"torch", "qnn-toolchain"}
    assert {part.name for part in KNOWN["qnn-toolchain"].parts()} == {"torch"}
    assert {part.name for part in KNOWN["qnn"].parts()} == {"qnn-engine"}
    assert KNOWN["qnn-engine"].parts() == []
    assert {part.name for part in KNOWN["operator"].parts()} == {"operator-packages", "operator-python"}


def test_the_key_follows_the_image_that_it_starts_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {
        "below": "FROM debian AS below\nCOPY seed /\n",
        "above": "FROM ghcr.io/edgemodel/below AS serve\nUSER 1\n",
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "Dockerfile").write_text(text)
    (tmp_path / "seed").write_text("1")
    below, above = (Image(name, stage, tmp_path, tmp_path) for name, stage in (("below", "below"), ("above", "serve")))
    monkeypatch.setitem(KNOWN, "below", below)
    assert (below.name, above.name) == ("below", "above")

    before = below.key(), above.key()
    (tmp_path / "seed").write_text("2")
    assert below.key() != before[0]
    assert above.key() != before[1]


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_has_each_package_from_one_layer(name: str) -> None:
    assert len(PIPELINES) == 4
    assert not pins(KNOWN[name].folder) & pins("torch")
