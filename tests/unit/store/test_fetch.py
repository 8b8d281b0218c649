"""What a fetch leaves in its folder."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgemodel.store.artifacts import ArtifactStore
from edgemodel.store.errors import CorruptError, DiskFullError, NotFoundError
from edgemodel.store.fetch import fetch
from tests.s3 import S3, manifest_of

KEY = "a1" * 16
SIZE = (10 << 20) + 7


@pytest.fixture
def store(s3: S3) -> ArtifactStore:
    return ArtifactStore(s3.config)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "sub").mkdir(parents=True)
    (folder / "model.gguf").write_bytes(os.urandom(SIZE))
    (folder / "sub" / "tokenizer.json").write_bytes(b"{}")
    (folder / "sub" / "empty").touch()
    return folder


@pytest.fixture
def digest(store: ArtifactStore, source: Path) -> str:
    return store.publish(manifest_of(source, KEY), source)


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_folder_gets_every_file(store: ArtifactStore, digest: str, source: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    target = tmp_path / "target"
    fetch(store, KEY, digest, target, lambda done, total: seen.append((done, total)))
    assert content(target) == content(source)
    assert seen[-1] == (SIZE + 2, SIZE + 2)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_whole_folder_is_left_alone(store: ArtifactStore, digest: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    fetch(store, KEY, digest, target)
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*")}
    seen: list[int] = []
    fetch(store, KEY, digest, target, lambda done, _: seen.append(done))
    assert {path: path.stat().st_mtime_ns for path in target.rglob("*")} == before
    assert seen[-1] == SIZE + 2


@pytest.mark.parametrize("damage", ["byte", "shorter", "longer", "gone"])
def test_damage_is_repaired(store: ArtifactStore, digest: str, source: Path, tmp_path: Path, damage: str) -> None:
    target = tmp_path / "target"
    fetch(store, KEY, digest, target)
    model = target / "model.gguf"
    data = model.read_bytes()
    match damage:
        case "byte":
            model.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        case "shorter":
            model.write_bytes(data[:-1])
        case "longer":
            model.write_bytes(data + b"x")
        case "gone":
            model.unlink()
    fetch(store, KEY, digest, target)
    assert content(target) == content(source)


def test_only_missing_chunks_are_fetched(
    store: ArtifactStore, digest: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    data = (source / "model.gguf").read_bytes()
    (target / "model.gguf.partial").write_bytes(data[: 5 << 20] + bytes(5 << 20) + data[10 << 20 :])
    asked: list[int] = []
    stream = store.stream

    def listen(digest: str, start: int, size: int) -> Iterator[memoryview]:
        asked.append(start)
        return stream(digest, start, size)

    monkeypatch.setattr(store, "stream", listen)
    fetch(store, KEY, digest, target)
    assert content(target) == content(source)
    assert sorted(asked) == [0, 5 << 20]  # the other file, and the chunk of zeros


def test_other_digest_is_refused(store: ArtifactStore, digest: str, tmp_path: Path) -> None:
    expected = f"sha256:{'0' * 64}"
    with pytest.raises(CorruptError, match=f"expected {expected}, got {digest}"):
        fetch(store, KEY, expected, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_missing_artifact(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no artifact"):
        fetch(store, "0" * 32, f"sha256:{'0' * 64}", tmp_path)


def test_blob_that_is_gone(store: ArtifactStore, s3: S3, digest: str, source: Path, tmp_path: Path) -> None:
    blob = manifest_of(source, KEY).files[0].sha256.removeprefix("sha256:")
    (s3.files / s3.config.prefix / "blobs" / "sha256" / blob).unlink()
    with pytest.raises(NotFoundError, match="404 NoSuchKey"):
        fetch(store, KEY, digest, tmp_path / "target")
    assert not (tmp_path / "target" / "model.gguf").exists()


def test_room_is_looked_for_first(
    store: ArtifactStore, digest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=2, f_frsize=4096))
    with pytest.raises(DiskFullError, match=f"needs {SIZE + 2} more bytes, and 8192 are free"):
        fetch(store, KEY, digest, tmp_path / "target")
    assert content(tmp_path / "target") == {}


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite"])
def test_disk_that_becomes_full(
    store: ArtifactStore, digest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(DiskFullError, match="became full"):
        fetch(store, KEY, digest, tmp_path / "target")
    assert all(name.endswith(".partial") for name in content(tmp_path / "target"))
