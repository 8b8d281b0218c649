import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edgemodel.store import manifest as module
from edgemodel.store.errors import CorruptError
from edgemodel.store.manifest import CHUNK, Manifest, describe, describe_file
from tests.s3 import manifest_of

KEY = "ab" * 16


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    (tmp_path / "model.gguf").write_bytes(os.urandom(CHUNK * 2 + 1))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "empty").touch()
    return manifest_of(tmp_path, KEY)


def with_paths(manifest: Manifest, *paths: str) -> Manifest:
    files = [{**manifest.files[0].dump(), "path": path} for path in sorted(paths)]
    return Manifest.model_validate({**manifest.dump(), "files": files, "entrypoint": paths[0]})


def test_bytes_are_canonical(manifest: Manifest) -> None:
    data = manifest.canonical()
    assert Manifest.parse(data, "it").canonical() == data
    assert data == json.dumps(json.loads(data), sort_keys=True, separators=(",", ":")).encode()
    assert manifest.digest() == f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_files_are_described(tmp_path: Path, manifest: Manifest) -> None:
    model, empty = manifest.files
    data = (tmp_path / "model.gguf").read_bytes()
    assert (model.path, model.bytes) == ("model.gguf", len(data))
    assert model.sha256 == f"sha256:{hashlib.sha256(data).hexdigest()}"
    pieces = [data[start : start + size] for start, size, _ in model.ranges()]
    assert b"".join(pieces) == data
    assert model.chunks == [f"sha256:{hashlib.sha256(piece).hexdigest()}" for piece in pieces]
    assert (empty.path, empty.bytes, empty.chunks) == ("sub/empty", 0, [])
    assert manifest.size == len(data)


def test_huge_file_gets_larger_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CHUNKS", 2)
    (tmp_path / "f").write_bytes(bytes((5 << 20) * 3))
    assert len(describe_file(tmp_path / "f", "f").chunks) == 2


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("/"), os.mkfifo], ids=["symlink", "fifo"])
def test_only_files_and_folders_are_described(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "odd")
    with pytest.raises(ValueError, match="neither a file nor a folder"):
        describe(tmp_path)


OUTSIDE = ["", "/a", "../a", "a/../b", "a//b", "a/", "./a"]
UNPRINTABLE = ["a\\b", "a\0b", "a\nb", "a\u202eb"]
TOO_LONG = ["a" * 250, "a/" * 256 + "a"]
OURS = ["a.partial", "a.PARTIAL/b"]


@pytest.mark.parametrize("path", [*OUTSIDE, *UNPRINTABLE, *TOO_LONG, *OURS])
def test_unsafe_path_is_refused(manifest: Manifest, path: str) -> None:
    with pytest.raises(ValidationError):
        with_paths(manifest, path)


@given(st.text(st.sampled_from("ab./\\\0é~\n"), max_size=12))
def test_accepted_path_stays_in_its_folder(path: str) -> None:
    entry = {"path": path, "bytes": 0, "sha256": f"sha256:{'0' * 64}", "chunkBytes": CHUNK, "chunks": []}
    try:
        accepted = module.File.model_validate(entry).path
    except ValidationError:
        return
    assert os.path.normpath(f"/folder/{accepted}") == f"/folder/{accepted}"
    assert PurePosixPath(accepted).parts == tuple(accepted.split("/"))
    assert not set(accepted) & set("\\\0\n")


@pytest.mark.parametrize("paths", [("a", "a"), ("A", "a"), ("a", "a/b"), ("é", "e\u0301")])
def test_names_that_collide_are_refused(manifest: Manifest, paths: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError, match="same name"):
        with_paths(manifest, *paths)


@pytest.mark.parametrize(
    "change",
    [
        {"schemaVersion": 2},
        {"key": "../../../etc/passwd"},
        {"entrypoint": "other"},
        {"files": []},
        {"source": None},
    ],
)
def test_bad_manifest_is_corrupt(manifest: Manifest, change: dict[str, object]) -> None:
    with pytest.raises(CorruptError, match="no manifest of version 1"):
        Manifest.parse(json.dumps(manifest.dump() | change).encode(), "it")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[]"])
def test_garbage_is_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptError):
        Manifest.parse(data, "it")


def test_chunks_must_cover_the_file(manifest: Manifest) -> None:
    file = manifest.files[0].dump()
    with pytest.raises(ValidationError, match="add up"):
        module.File.model_validate(file | {"bytes": 1})


def test_files_must_be_in_order(manifest: Manifest) -> None:
    with pytest.raises(ValidationError, match="order"):
        Manifest.model_validate(manifest.dump() | {"files": list(reversed(manifest.files))})
