"""The store's promises, kept on a real S3 server."""

import json
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from edgemodel.api.artifact import Progress
from edgemodel.store import artifacts
from edgemodel.store.artifacts import ArtifactStore
from edgemodel.store.client import Bucket
from edgemodel.store.errors import CorruptError, DeniedError, StoreConfigError, TransientError
from tests.s3 import S3, SECRET_KEY, manifest_of, serve
from tests.unit.core.samples import performance

KEY, OTHER = "a1" * 16, "b2" * 16
SHARED = b"shared by both"


@pytest.fixture
def store(s3: S3) -> ArtifactStore:
    return ArtifactStore(s3.config)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "model", os.urandom((10 << 20) + 7))


def folder_of(folder: Path, data: bytes) -> Path:
    folder.mkdir()
    (folder / "model.gguf").write_bytes(data)
    (folder / "tokenizer.json").write_bytes(SHARED)
    return folder


def test_published_artifact_is_whole(store: ArtifactStore, s3: S3, model: Path) -> None:
    manifest = manifest_of(model, KEY)
    seen: list[tuple[int, int]] = []
    digest = store.publish(manifest, model, lambda done, total: seen.append((done, total)))
    published = store.read_manifest(KEY)
    assert published is not None
    assert (published.manifest, published.digest) == (manifest, digest)
    assert digest == manifest.digest()
    assert store.is_whole(manifest)
    assert s3.keys() == {f"artifacts/{KEY}/manifest.json", *blobs(manifest_of(model, KEY).blobs())}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (manifest.size, manifest.size)


def test_second_publish_changes_nothing(store: ArtifactStore, s3: S3, model: Path, tmp_path: Path) -> None:
    digest = store.publish(manifest_of(model, KEY), model)
    before = s3.keys()
    another = folder_of(tmp_path / "another", b"made differently")
    assert store.publish(manifest_of(another, KEY), another) == digest
    assert s3.keys() == before


def test_artifact_that_lost_a_blob_is_replaced(store: ArtifactStore, s3: S3, model: Path, tmp_path: Path) -> None:
    old = manifest_of(model, KEY)
    store.publish(old, model)
    (lost,) = blobs([old.files[0].sha256])
    (s3.files / s3.config.prefix / lost).unlink()
    assert not store.is_whole(old)
    another = folder_of(tmp_path / "another", b"made differently")
    new = manifest_of(another, KEY)
    assert store.publish(new, another) == new.digest()
    assert store.is_whole(new)
    assert s3.keys() == {f"artifacts/{KEY}/manifest.json", *blobs(new.blobs())}


def test_file_that_changed_since_it_was_described_is_refused(store: ArtifactStore, model: Path) -> None:
    manifest = manifest_of(model, KEY)
    with (model / "model.gguf").open("r+b") as file:
        file.write(b"changed")
    with pytest.raises(CorruptError, match="the file changed"):
        store.publish(manifest, model)
    assert store.read_manifest(KEY) is None


def test_artifact_stays_while_anyone_refers_to_it(store: ArtifactStore, s3: S3, model: Path) -> None:
    manifest = manifest_of(model, KEY)
    for owner in ("cluster-1.retail", "cluster-2.retail"):
        store.add_reference(KEY, owner)
    store.publish(manifest, model)
    store.write_progress(KEY, Progress(step="Publish", percent=100))
    assert not store.remove(KEY, "cluster-1.retail").artifact
    assert store.is_whole(manifest)
    removed = store.remove(KEY, "cluster-2.retail")
    assert removed.artifact
    assert removed.blobs == manifest.blobs().keys()
    assert s3.keys() == set()
    assert store.remove(KEY, "cluster-2.retail").blobs == frozenset()
    assert s3.keys() == set()


def test_shared_blob_goes_with_its_last_artifact(store: ArtifactStore, s3: S3, model: Path, tmp_path: Path) -> None:
    another = folder_of(tmp_path / "another", b"another model")
    first, second = manifest_of(model, KEY), manifest_of(another, OTHER)
    store.publish(first, model)
    store.publish(second, another)
    shared = first.blobs().keys() & second.blobs().keys()
    assert len(shared) == 1
    assert store.remove(KEY, "owner").blobs == first.blobs().keys() - shared
    assert store.is_whole(second)
    assert store.remove(OTHER, "owner").blobs == second.blobs().keys()
    assert s3.keys() == set()


def test_nothing_is_deleted_while_a_manifest_is_unreadable(store: ArtifactStore, s3: S3, model: Path) -> None:
    manifest = manifest_of(model, KEY)
    store.publish(manifest, model)
    Bucket(s3.config).put(f"artifacts/{OTHER}/manifest.json", b"{}")
    with pytest.raises(CorruptError, match=OTHER):
        store.remove(KEY, "owner")
    assert store.is_whole(manifest)
    store.remove(OTHER, "owner")
    store.remove(KEY, "owner")
    assert s3.keys() == set()


def test_manifest_of_another_key_is_corrupt(store: ArtifactStore, s3: S3, model: Path) -> None:
    store.publish(manifest_of(model, KEY), model)
    place = s3.files / s3.config.prefix / "artifacts"
    (place / KEY).rename(place / OTHER)
    with pytest.raises(CorruptError, match=f"is the manifest of {KEY}"):
        store.read_manifest(OTHER)


def test_performance(store: ArtifactStore, s3: S3) -> None:
    assert store.read_performance(KEY) is None
    store.write_performance(KEY, performance())
    assert store.read_performance(KEY) == performance()
    store.remove(KEY, "me")
    assert store.read_performance(KEY) is None
    assert s3.keys() == set()


def test_progress(store: ArtifactStore, s3: S3) -> None:
    assert store.read_progress(KEY) is None
    store.write_progress(KEY, Progress(step="Quantize", percent=40))
    assert store.read_progress(KEY) == Progress(step="Quantize", percent=40)
    Bucket(s3.config).put(f"progress/{KEY}.json", b"not it")
    assert store.read_progress(KEY) is None


def test_abandoned_removal_is_ended_by_whoever_meets_it(
    store: ArtifactStore, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    Bucket(s3.config).put(f"removals/{KEY}.dead.json", json.dumps({"key": KEY, "blobs": []}).encode())
    with pytest.raises(TransientError, match="being removed"):
        store.add_reference(KEY, "owner")
    monkeypatch.setattr(artifacts, "ABANDONED_SECONDS", -5)
    store.add_reference(KEY, "owner")
    assert s3.keys() == {f"artifacts/{KEY}/refs/owner"}


def test_an_owner_ends_its_own_removals_only(store: ArtifactStore, s3: S3, model: Path) -> None:
    attempt, other_attempt = "0" * 32, "1" * 32
    own = [f"removals/{KEY}.owner.json", f"removals/{KEY}.owner.{attempt}.json"]
    others = [f"removals/{KEY}.owner.2.json", f"removals/{KEY}.owner.2.{other_attempt}.json"]
    marker = json.dumps({"key": KEY, "blobs": list(manifest_of(model, KEY).blobs())}).encode()
    store.publish(manifest_of(model, OTHER), model)
    for place in own + others:
        Bucket(s3.config).put(place, marker)
    store.remove(OTHER, "neighbour")
    store.remove(KEY, "owner")
    assert s3.keys() == set(others)


def test_wrong_secret_is_denied_and_not_shown(s3: S3, tmp_path: Path) -> None:
    (tmp_path / "AWS_ACCESS_KEY_ID").write_text("edgemodel-test")
    (tmp_path / "AWS_SECRET_ACCESS_KEY").write_text("wrong-secret")
    store = ArtifactStore(replace(s3.config, credentials=tmp_path))
    for call in (lambda: store.read_manifest(KEY), lambda: list(store.stream(f"sha256:{'0' * 64}", 0, 1))):
        with pytest.raises(DeniedError) as caught:
            call()
        assert "wrong-secret" not in str(caught.value)
        assert "Signature=" not in str(caught.value)


def test_rotated_secret_is_used_at_once(s3: S3, tmp_path: Path) -> None:
    (tmp_path / "AWS_ACCESS_KEY_ID").write_text("edgemodel-test")
    (tmp_path / "AWS_SECRET_ACCESS_KEY").write_text("not yet right")
    store = ArtifactStore(replace(s3.config, credentials=tmp_path))
    with pytest.raises(DeniedError):
        store.read_manifest(KEY)
    (tmp_path / "AWS_SECRET_ACCESS_KEY").write_text(SECRET_KEY)
    assert store.read_manifest(KEY) is None
    (tmp_path / "AWS_SECRET_ACCESS_KEY").unlink()
    with pytest.raises(StoreConfigError, match="no AWS_SECRET_ACCESS_KEY"):
        store.read_manifest(KEY)


def test_missing_bucket_is_a_matter_of_configuration(s3: S3) -> None:
    with pytest.raises(StoreConfigError, match="create the bucket"):
        ArtifactStore(replace(s3.config, bucket="no-such-bucket")).read_manifest(KEY)


def test_wrong_region_is_a_matter_of_configuration(tmp_path: Path, model: Path) -> None:
    """Also where botocore would correct it for calls, since it would not do so for streams."""
    with serve(tmp_path / "server", "eu-central-1") as s3:
        store = ArtifactStore(replace(s3.config, region="us-east-1"))
        for call in (
            lambda: store.publish(manifest_of(model, KEY), model),
            lambda: list(store.stream(f"sha256:{'0' * 64}", 0, 1)),
        ):
            with pytest.raises(StoreConfigError, match="EDGEMODEL_STORE_REGION"):
                call()


@pytest.mark.parametrize("owner", ["", "a/b", "../x", "a\nb", "x" * 200])
def test_owner_is_a_plain_name(store: ArtifactStore, owner: str) -> None:
    with pytest.raises(ValueError, match="no name for an owner"):
        store.add_reference(KEY, owner)


def blobs(digests: Iterable[str]) -> set[str]:
    return {f"blobs/sha256/{digest.removeprefix('sha256:')}" for digest in digests}
