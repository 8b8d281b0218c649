"""Publishers and removers that are killed, or meet each other: one whole artifact or none, and nothing left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgemodel.store import artifacts
from edgemodel.store.artifacts import ArtifactStore
from edgemodel.store.errors import DeniedError, StoreError, TransientError
from edgemodel.store.manifest import Manifest
from tests.faults.proxy import Damage, Fault, Late, Lost, Proxy, Request, Status, first, run_proxy
from tests.s3 import S3, manifest_of
from tests.unit.core.samples import performance

KEY, OTHER = "a1" * 16, "b2" * 16
PUBLISH = """
import sys
from pathlib import Path
from edgemodel.store import manifest
from edgemodel.store.artifacts import ArtifactStore
from edgemodel.store.config import StoreConfig
from tests.s3 import manifest_of
manifest.CHUNK = 5 << 20
folder = Path(sys.argv[2])
print(ArtifactStore(StoreConfig.from_env()).publish(manifest_of(folder, sys.argv[1]), folder))
"""


class Wall:
    """Nothing gets through after so many writes, as if the writer had been killed. `last` may reach the server."""

    def __init__(self, writes: int, last_reaches_server: bool) -> None:
        self.left = writes
        self.last_reaches_server = last_reaches_server

    def __call__(self, request: Request) -> Fault | None:
        if self.left and request.writes:
            self.left -= 1
            return None if self.left else Lost(self.last_reaches_server)
        return None if self.left else Lost(reaches_server=False)


def until_it_passes(
    proxy: Proxy, last_reaches_server: bool, call: Callable[[], object], check: Callable[[], None]
) -> int:
    """Kills `call` at its first write, its second and so on, until it passes. Each time it is run again, whole."""
    for writes in range(1, 100):
        wall = Wall(writes, last_reaches_server)
        proxy.judge = wall
        try:
            call()
        except TransientError:
            pass
        else:
            return writes
        finally:
            proxy.judge = lambda _: None
        check()
    raise AssertionError("it never ends")


def another_model(folder: Path, data: bytes = b"another") -> Path:
    folder.mkdir()
    (folder / "model.gguf").write_bytes(data)
    (folder / "tokenizer.json").write_bytes(b"shared")
    return folder


def whole_or_absent(store: ArtifactStore, manifest: Manifest) -> None:
    published = store.read_manifest(manifest.key)
    assert published is None or store.is_whole(published.manifest)


@pytest.mark.parametrize("last_reaches_server", [True, False])
def test_publish_killed_at_each_write(s3: S3, proxy: Proxy, model: Path, last_reaches_server: bool) -> None:
    direct, store = ArtifactStore(s3.config), ArtifactStore(s3.through(proxy.url).config)
    manifest = manifest_of(model, KEY)

    def check() -> None:
        whole_or_absent(direct, manifest)
        assert store.publish(manifest, model) == manifest.digest()
        assert direct.is_whole(manifest)
        assert s3.uploads() == []
        assert direct.remove(KEY, "owner").blobs == manifest.blobs().keys()
        assert s3.keys() == set()

    writes = until_it_passes(proxy, last_reaches_server, lambda: store.publish(manifest, model), check)
    assert writes >= 8  # pending, three parts with begin and end, the small file, the manifest


@pytest.mark.parametrize("last_reaches_server", [True, False])
def test_publish_killed_and_removed(s3: S3, proxy: Proxy, model: Path, last_reaches_server: bool) -> None:
    direct, store = ArtifactStore(s3.config), ArtifactStore(s3.through(proxy.url).config)
    manifest = manifest_of(model, KEY)

    def check() -> None:
        direct.remove(KEY, "owner")
        assert s3.keys() == set()
        assert s3.uploads() == []

    until_it_passes(proxy, last_reaches_server, lambda: store.publish(manifest, model), check)


@pytest.mark.parametrize("last_reaches_server", [True, False])
def test_remove_killed_at_each_write(
    s3: S3, proxy: Proxy, model: Path, tmp_path: Path, last_reaches_server: bool
) -> None:
    direct, store = ArtifactStore(s3.config), ArtifactStore(s3.through(proxy.url).config)
    manifest, neighbour = manifest_of(model, KEY), manifest_of(another_model(tmp_path / "other"), OTHER)
    direct.publish(neighbour, tmp_path / "other")
    kept = s3.keys()

    def publish() -> None:
        direct.add_reference(KEY, "owner")
        direct.publish(manifest, model)

    def check() -> None:
        assert direct.is_whole(neighbour)
        store.remove(KEY, "owner")
        assert s3.keys() == kept
        publish()

    publish()
    writes = until_it_passes(proxy, last_reaches_server, lambda: store.remove(KEY, "owner"), check)
    assert writes >= 5  # reference, marker, manifest, progress, blob, marker
    assert s3.keys() == kept


def test_an_owner_that_removes_once_more_and_is_killed_leaves_nothing(s3: S3, proxy: Proxy, model: Path) -> None:
    """Nobody would come back for what it leaves: it was only late to see that it had removed the artifact."""
    direct, store = ArtifactStore(s3.config), ArtifactStore(s3.through(proxy.url).config)
    direct.publish(manifest_of(model, KEY), model)
    direct.remove(KEY, "owner")

    def check() -> None:
        assert s3.keys() == set()

    until_it_passes(proxy, True, lambda: store.remove(KEY, "owner"), check)
    check()


@pytest.mark.parametrize("number", range(1, 10))
def test_publish_survives_a_lost_answer(s3: S3, proxy: Proxy, model: Path, number: int) -> None:
    store = ArtifactStore(s3.through(proxy.url).config)
    manifest = manifest_of(model, KEY)
    seen = 0

    def lose(request: Request) -> Fault | None:
        nonlocal seen
        seen += request.writes
        return Lost(reaches_server=True) if request.writes and seen == number else None

    proxy.judge = lose
    assert store.publish(manifest, model) == manifest.digest()
    assert store.is_whole(manifest)
    assert s3.keys() == {f"artifacts/{KEY}/manifest.json"} | {
        f"blobs/sha256/{digest.removeprefix('sha256:')}" for digest in manifest.blobs()
    }
    assert s3.uploads() == []


def test_publish_killed_by_the_kernel(s3: S3, proxy: Proxy, model: Path) -> None:
    store = ArtifactStore(s3.config)
    parts = 0

    def kill_at_the_second_part(request: Request) -> None:
        nonlocal parts
        parts += "partNumber" in request.query
        if parts == 2:
            process.kill()

    proxy.judge = kill_at_the_second_part
    command = [sys.executable, "-c", PUBLISH, KEY, str(model)]
    with subprocess.Popen(command, env=environ(s3.through(proxy.url)), stdout=subprocess.DEVNULL) as process:
        assert process.wait(60) == -signal.SIGKILL
    assert store.read_manifest(KEY) is None
    assert s3.uploads()
    manifest = manifest_of(model, KEY)
    assert store.publish(manifest, model) == manifest.digest()
    assert s3.uploads() == []


@pytest.mark.parametrize("same", [True, False], ids=["same bytes", "other bytes"])
def test_two_processes_publish_the_same_key(s3: S3, model: Path, tmp_path: Path, same: bool) -> None:
    folders = [model, model if same else another_model(tmp_path / "other", os.urandom(11 << 20))]
    commands = [[sys.executable, "-c", PUBLISH, KEY, str(folder)] for folder in folders]
    running = [
        subprocess.Popen(command, env=environ(s3), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    ends = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0], [complaint for _, complaint in ends]
    said = {output.strip() for output, _ in ends}
    store = ArtifactStore(s3.config)
    published = store.read_manifest(KEY)
    assert published is not None
    assert said == {published.digest}
    assert store.is_whole(published.manifest)
    assert s3.uploads() == []
    blobs = {f"blobs/sha256/{digest.removeprefix('sha256:')}" for digest in published.manifest.blobs()}
    assert s3.keys() == {f"artifacts/{KEY}/manifest.json", *blobs}


@pytest.mark.parametrize(
    ("answer", "tries"),
    [(Status(500), 4), (Status(400, "InvalidPart"), 1), (Status(404, "NoSuchUpload"), 1)],
    ids=["500", "InvalidPart", "NoSuchUpload"],
)
def test_upload_that_fails_because_another_completed_the_blob_does_not_matter(
    s3: S3, proxy: Proxy, model: Path, answer: Status, tries: int
) -> None:
    """The other drops the uploads that it is not of; stores have several words for them from then on."""
    direct, store = ArtifactStore(s3.config), ArtifactStore(s3.through(proxy.url).config)
    manifest = manifest_of(model, KEY)
    asked: list[Request] = []

    def judge(request: Request) -> Fault | None:
        if request.method != "POST" or "uploadId" not in request.query:
            return None
        if not asked:
            direct.publish(manifest, model)
        asked.append(request)
        return answer

    proxy.judge = judge
    assert store.publish(manifest, model) == manifest.digest()
    assert len(asked) == tries
    assert direct.is_whole(manifest)
    assert s3.uploads() == []


def test_manifest_that_is_removed_when_it_is_to_be_replaced_is_written_anew(
    s3: S3, proxy: Proxy, model: Path, tmp_path: Path
) -> None:
    """A store answers 404 then, not 412."""
    direct, store = ArtifactStore(s3.config), ArtifactStore(s3.through(proxy.url).config)
    old, manifest = manifest_of(another_model(tmp_path / "other"), KEY), manifest_of(model, KEY)
    direct.publish(old, tmp_path / "other")
    lose_model(s3, old)
    removed: list[bool] = []

    def remove(request: Request) -> None:
        if request.method == "PUT" and request.path.endswith("manifest.json") and not removed:
            removed.append(direct.remove(KEY, "owner").artifact)

    proxy.judge = remove
    assert store.publish(manifest, model) == manifest.digest()
    assert removed == [True]
    assert direct.is_whole(manifest)


@pytest.mark.parametrize("method", ["GET", "DELETE"], ids=["list", "abort"])
def test_publish_may_do_without_the_right_to_drop_uploads(s3: S3, proxy: Proxy, model: Path, method: str) -> None:
    """Nothing but room is lost: the blob is whole."""
    direct, store = ArtifactStore(s3.config), ArtifactStore(s3.through(proxy.url).config)
    manifest = manifest_of(model, KEY)
    proxy.judge = Wall(4, last_reaches_server=True)
    with pytest.raises(TransientError):
        store.publish(manifest, model)
    assert s3.uploads()

    def deny(request: Request) -> Fault | None:
        housekeeping = request.method == method and not request.query.keys().isdisjoint({"uploads", "uploadId"})
        return Status(403, "AccessDenied") if housekeeping else None

    proxy.judge = deny
    assert store.publish(manifest, model) == manifest.digest()
    assert direct.is_whole(manifest)
    assert direct.remove(KEY, "owner").blobs == manifest.blobs().keys()
    assert s3.uploads() == []


def test_what_the_store_does_not_offer_is_not_asked_for_again(s3: S3, proxy: Proxy, model: Path) -> None:
    proxy.judge = lambda request: Status(501, "NotImplemented") if request.query.keys() == {"uploads"} else None
    with pytest.raises(StoreError, match="this store does not offer it") as caught:
        ArtifactStore(s3.through(proxy.url).config).publish(manifest_of(model, KEY), model)
    assert not caught.value.retry
    assert sum("uploads" in request.query for request in proxy.seen) == 1


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
def test_expired_credentials_are_read_again(s3: S3, proxy: Proxy, model: Path, method: str) -> None:
    """Others take their place: those of a pod's identity, or in a mounted Secret."""
    store, manifest = ArtifactStore(s3.through(proxy.url).config), manifest_of(model, KEY)
    expired = Status(400, "ExpiredToken")
    proxy.judge = lambda _: expired
    with pytest.raises(DeniedError, match="renew them") as caught:
        store.publish(manifest, model)
    assert not caught.value.retry
    proxy.judge = first(2, expired, lambda request: request.method == method)
    assert store.publish(manifest, model) == manifest.digest()


def test_a_blob_that_the_store_is_still_putting_together_is_not_uploaded_again(
    s3: S3, proxy: Proxy, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some copy all parts for this. Asked once more by a client whose time was up, they answer at once."""
    monkeypatch.setattr(artifacts, "_POLL_SECONDS", 0.05)
    store, manifest = ArtifactStore(s3.through(proxy.url).config), manifest_of(model, KEY)
    answer = b"<CompleteMultipartUploadResult></CompleteMultipartUploadResult>"
    proxy.judge = lambda request: Late(answer, 1) if request.query.keys() == {"uploadId"} else None
    assert store.publish(manifest, model) == manifest.digest()
    assert store.is_whole(manifest)
    assert sum(request.query.keys() == {"uploads"} and request.writes for request in proxy.seen) == 1


def lose_model(s3: S3, manifest: Manifest) -> None:
    """As a removal does that had not seen the manifest."""
    (s3.files / s3.config.prefix / "blobs/sha256" / manifest.files[0].sha256.removeprefix("sha256:")).unlink()


class AfterManifest:
    """Does something when the publisher has put its manifest, and looks for removals."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.action = action
        self.has_put = self.is_done = False

    def __call__(self, request: Request) -> None:
        if request.method == "PUT" and request.path.endswith("manifest.json"):
            self.has_put = True
        elif self.has_put and not self.is_done and "removals/" in str(request.query.get("prefix")):
            self.is_done = True
            self.action()


def test_a_publisher_whose_manifest_was_replaced_leaves_nothing(
    s3: S3, proxy: Proxy, model: Path, tmp_path: Path
) -> None:
    direct, store = ArtifactStore(s3.config), ArtifactStore(s3.through(proxy.url).config)
    first_one, other = manifest_of(model, KEY), manifest_of(another_model(tmp_path / "other"), KEY)

    def replace() -> None:
        lose_model(s3, first_one)
        direct.publish(other, tmp_path / "other")

    proxy.judge = AfterManifest(replace)
    assert store.publish(first_one, model) == other.digest()
    assert direct.is_whole(other)
    assert direct.remove(KEY, "owner").blobs == other.blobs().keys()
    assert s3.keys() == set()


def test_a_publisher_whose_artifact_was_removed_leaves_nothing(s3: S3, proxy: Proxy, model: Path) -> None:
    direct, store = ArtifactStore(s3.config), ArtifactStore(s3.through(proxy.url).config)
    proxy.judge = AfterManifest(lambda: direct.remove(KEY, "owner"))
    store.publish(manifest_of(model, KEY), model)
    assert s3.keys() == set()


def test_a_publisher_that_replaces_a_manifest_leaves_nothing_of_it(
    s3: S3, proxy: Proxy, model: Path, tmp_path: Path
) -> None:
    (model / "vocabulary.json").write_bytes(b"of this one only")
    direct, store = ArtifactStore(s3.config), ArtifactStore(s3.through(proxy.url).config)
    first_one, other = manifest_of(model, KEY), manifest_of(another_model(tmp_path / "other"), KEY)

    def publish(request: Request) -> None:
        if request.method == "PUT" and "/pending/" in request.path:
            direct.publish(first_one, model)
            lose_model(s3, first_one)

    proxy.judge = publish
    assert store.publish(other, tmp_path / "other") == other.digest()
    assert direct.remove(KEY, "owner").blobs == other.blobs().keys()
    assert s3.keys() == set()


def test_publish_waits_for_a_removal_that_takes_its_blob(
    s3: S3, proxy: Proxy, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The remover has looked for who needs the blob before the publisher said so."""
    monkeypatch.setattr(artifacts, "_POLL_SECONDS", 0.05)
    direct, remover = ArtifactStore(s3.config), ArtifactStore(s3.through(proxy.url).config)
    manifest = manifest_of(another_model(tmp_path / "other"), OTHER)
    direct.publish(manifest_of(model, KEY), model)
    publisher = threading.Thread(target=direct.publish, args=(manifest, tmp_path / "other"))
    begun: list[bool] = []

    def begin_publishing(request: Request) -> None:
        if request.method == "DELETE" and "/blobs/" in request.path and not begun:
            begun.append(True)
            publisher.start()
            publisher.join(1)
            assert publisher.is_alive()

    proxy.judge = begin_publishing
    remover.remove(KEY, "owner")
    publisher.join(30)
    assert begun
    assert direct.is_whole(manifest)


def test_a_removal_that_is_taken_for_abandoned_keeps_its_new_marker_when_it_begins_again(
    s3: S3, proxy: Proxy, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever ends the abandoned one has looked before the owner came back."""
    monkeypatch.setattr(artifacts, "_POLL_SECONDS", 0.05)
    direct, remover = ArtifactStore(s3.config), ArtifactStore(s3.through(proxy.url).config)
    direct.publish(manifest_of(model, KEY), model)
    proxy.judge = Wall(3, last_reaches_server=False)  # its reference and its marker come through
    with pytest.raises(TransientError):
        remover.remove(KEY, "owner")
    (marker,) = (s3.files / s3.config.prefix / "removals").iterdir()
    old = time.time() - 2 * artifacts.ABANDONED_SECONDS
    os.utime(marker, (old, old))
    removal = threading.Thread(target=remover.remove, args=(KEY, "owner"))
    deletes, go_on = threading.Event(), threading.Event()

    def pause(request: Request) -> None:
        if request.method == "DELETE" and "/blobs/" in request.path:
            deletes.set()
            assert go_on.wait(30)

    def begin_again(request: Request) -> None:
        if request.method == "PUT" and "/removals/" in request.path:
            proxy.judge = pause
            removal.start()
            assert deletes.wait(30)

    with run_proxy(str(s3.config.endpoint)) as another:
        another.judge = begin_again
        ArtifactStore(s3.through(another.url).config).add_reference(OTHER, "newcomer")
    manifest = manifest_of(another_model(tmp_path / "other"), OTHER)
    publisher = threading.Thread(target=direct.publish, args=(manifest, tmp_path / "other"))
    publisher.start()
    publisher.join(1)
    go_on.set()
    removal.join(30)
    publisher.join(30)
    assert direct.is_whole(manifest)
    assert [key for key in sorted(s3.keys()) if key.startswith("removals/")] == []


def test_removal_spares_the_blobs_of_a_running_publish(s3: S3, proxy: Proxy, model: Path, tmp_path: Path) -> None:
    direct, publisher = ArtifactStore(s3.config), ArtifactStore(s3.through(proxy.url).config)
    first_one = manifest_of(model, KEY)
    manifest = manifest_of(another_model(tmp_path / "other"), OTHER)
    direct.publish(first_one, model)
    spared: list[bool] = []

    def remove_the_other(request: Request) -> None:
        if request.method == "PUT" and request.path.endswith("manifest.json") and not spared:
            removed = direct.remove(KEY, "owner").blobs
            spared.append(removed == first_one.blobs().keys() - manifest.blobs().keys())

    proxy.judge = remove_the_other
    publisher.publish(manifest, tmp_path / "other")
    assert spared == [True]
    assert direct.is_whole(manifest)


def test_reference_is_refused_while_the_artifact_goes(s3: S3, proxy: Proxy, model: Path) -> None:
    direct, remover = ArtifactStore(s3.config), ArtifactStore(s3.through(proxy.url).config)
    direct.publish(manifest_of(model, KEY), model)
    refused: list[type[StoreError]] = []

    def refer(request: Request) -> None:
        if request.method == "DELETE" and request.path.endswith("manifest.json"):
            try:
                direct.add_reference(KEY, "newcomer")
            except StoreError as error:
                refused.append(type(error))

    proxy.judge = refer
    remover.remove(KEY, "owner")
    assert refused == [TransientError]
    direct.add_reference(KEY, "newcomer")
    assert direct.read_manifest(KEY) is None


def test_a_remover_that_takes_too_long_deletes_no_document_more(
    s3: S3, proxy: Proxy, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts as dead: what is there by now may be another's."""
    monkeypatch.setattr(artifacts, "REMOVAL_SECONDS", 0.5)
    direct, remover = ArtifactStore(s3.config), ArtifactStore(s3.through(proxy.url).config)
    direct.publish(manifest_of(model, KEY), model)
    direct.write_performance(KEY, performance())

    def stall(request: Request) -> None:
        if request.method == "DELETE" and request.path.endswith("manifest.json"):
            time.sleep(0.6)

    proxy.judge = stall
    with pytest.raises(TransientError, match="takes too long"):
        remover.remove(KEY, "owner")
    assert direct.read_performance(KEY)
    proxy.judge = lambda _: None
    monkeypatch.setattr(artifacts, "REMOVAL_SECONDS", 60)
    assert remover.remove(KEY, "owner").artifact
    assert s3.keys() == set()


def test_damaged_upload_is_sent_again(s3: S3, proxy: Proxy, model: Path) -> None:
    """The server says that the bytes which came do not have the digest that was announced."""
    store = ArtifactStore(s3.through(proxy.url).config)
    manifest = manifest_of(model, KEY)
    proxy.judge = first(2, Damage(), lambda request: request.method == "PUT")
    assert store.publish(manifest, model) == manifest.digest()
    assert store.is_whole(manifest)


def environ(s3: S3) -> dict[str, str]:
    return os.environ | s3.env | {"PYTHONPATH": os.pathsep.join(sys.path)}
