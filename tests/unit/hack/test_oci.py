"""Images in the layout, and what of them is sent."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from hack.cluster.oci import Layout


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    folder = tmp_path / "layout"
    folder.mkdir()
    for name in ("first", "second"):
        (tmp_path / name).write_text(f"the program {name}")
        Layout(folder).add_program(f"example/{name}:1", tmp_path / name)
    return Layout(folder)


def sent(layout: Layout, reference: str, present: set[str]) -> tarfile.TarFile:
    stream = io.BytesIO()
    layout.send(reference, stream, lambda digest: digest not in present)
    return tarfile.open(fileobj=io.BytesIO(stream.getvalue()))


def test_an_image_of_one_program(layout: Layout) -> None:
    (layer,) = layout.layers("example/first:1")
    with tarfile.open(layer) as tar:
        assert tar.getnames() == ["first"]
        assert tar.getmember("first").mode == 0o755
    assert layout.config("example/first:1")["config"]["User"] == "65535:65535"


def test_an_archive_names_the_image_and_holds_its_blobs(layout: Layout) -> None:
    archive = sent(layout, "example/first:1", present=set())
    index = archive.extractfile("index.json")
    assert index is not None
    (image,) = json.load(index)["manifests"]
    assert image["annotations"] == {"io.containerd.image.name": "example/first:1"}
    assert len([name for name in archive.getnames() if name.startswith("blobs/")]) == 3


def test_what_the_other_side_has_is_not_sent(layout: Layout) -> None:
    (layer,) = layout.layers("example/first:1")
    archive = sent(layout, "example/first:1", present={f"sha256:{layer.name}"})
    assert f"blobs/sha256/{layer.name}" not in archive.getnames()


def test_a_removed_image_takes_only_its_own_blobs(layout: Layout) -> None:
    (first,), (second,) = layout.layers("example/first:1"), layout.layers("example/second:1")
    layout.remove(["example/first:1"])
    assert list(layout.images()) == ["example/second:1"]
    assert not first.exists()
    assert second.exists()
