"""The images that the cluster runs are fit to be: not root, no compiler, no CUDA; and how they are built."""

import os
from pathlib import Path

import pytest

from hack.cluster import binaries, images, kind, oci
from hack.cluster.shell import run
from hack.image_sizes import look


@pytest.mark.parametrize("name", images.default_names())
def test_an_image_has_neither_root_nor_compiler_nor_cuda(name: str) -> None:
    found = look(images.build(name)[name])
    assert found.faults == ()
    assert found.bytes > 1e7


@pytest.mark.skipif(kind.docker_answers(), reason="Docker keeps its images itself")
def test_buildah_need_keep_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has lost comes out of the cache, and what an image was copied from is not kept."""
    program = binaries.one("versitygw")
    monkeypatch.setenv("EDGEMODEL_CACHE", os.fspath(tmp_path / ".cache"))
    oci.layout().add_program("example.com/below:1", program)
    (tmp_path / "above").mkdir()
    (tmp_path / "above" / "Dockerfile").write_text(
        "FROM example.com/below:1 AS made\nCOPY above/Dockerfile /made\n"
        "FROM example.com/below:1 AS serve\nCOPY --from=made /made /\n"
    )
    (tmp_path / ".dockerignore").touch()
    reference = images.build_image(images.Image("above", home=tmp_path, context=tmp_path))
    with images.layers(reference) as layers:
        assert len(layers) == 2
    storage = tmp_path / ".cache" / "buildah"
    command = ("buildah", "--root", storage / "root", "--runroot", storage / "run", "images", "--format", "{{.Name}}")
    assert set(run(*command).split()) == {"example.com/below", "ghcr.io/edgemodel/above", "localhost/images"}
