"""A fetch on a bad day: it ends with the right bytes, or with the reason and nothing under a final name."""

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgemodel.store import client
from edgemodel.store import fetch as fetching
from edgemodel.store.artifacts import ArtifactStore
from edgemodel.store.errors import CorruptError, StoreError, TransientError
from edgemodel.store.fetch import fetch
from edgemodel.store.manifest import Manifest
from tests.faults.proxy import (
    Cut,
    Fault,
    Flip,
    Lost,
    Proxy,
    Request,
    Silent,
    Slow,
    Status,
    first,
    reads_blob,
    run_proxy,
)
from tests.s3 import S3, manifest_of

KEY = "a1" * 16
COMMAND = [sys.executable, "-c", "from edgemodel.store.fetch_main import main; main()"]


@pytest.fixture
def manifest(s3: S3, model: Path) -> Manifest:
    manifest = manifest_of(model, KEY)
    ArtifactStore(s3.config).publish(manifest, model)
    return manifest


@pytest.fixture
def store(s3: S3, proxy: Proxy) -> ArtifactStore:
    return ArtifactStore(s3.through(proxy.url).config)


def reads_manifest(request: Request) -> bool:
    return request.method == "GET" and request.path.endswith("/manifest.json")


def finished(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".partial"}


@pytest.mark.parametrize(
    "fault",
    [Status(500), Status(503), Status(429), Lost(reaches_server=True), Cut(3), Flip(1), Slow(3, 0.05)],
    ids=str,
)
@pytest.mark.parametrize("matches", [reads_blob, reads_manifest])
def test_passing_fault_is_survived(
    store: ArtifactStore, proxy: Proxy, manifest: Manifest, model: Path, tmp_path: Path, fault: Fault, matches: object
) -> None:
    assert callable(matches)
    proxy.judge = first(2, fault, matches)
    fetch(store, KEY, manifest.digest(), tmp_path / "target")
    for file in manifest.files:
        assert (tmp_path / "target" / file.path).read_bytes() == (model / file.path).read_bytes()


@pytest.mark.parametrize("fault", [Silent(300), Slow(2, 300)], ids=["before its answer", "within its answer"])
@pytest.mark.parametrize("matches", [reads_blob, reads_manifest])
def test_store_that_hangs_is_asked_again(
    s3: S3,
    proxy: Proxy,
    manifest: Manifest,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
    matches: object,
) -> None:
    assert callable(matches)
    monkeypatch.setattr(client, "_READ_SECONDS", 2)
    store = ArtifactStore(s3.through(proxy.url).config)
    proxy.judge = first(1, fault, matches)
    fetch(store, KEY, manifest.digest(), tmp_path / "target")
    assert (tmp_path / "target/model.gguf").read_bytes() == (model / "model.gguf").read_bytes()


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Status(500), TransientError),
        (Status(503), TransientError),
        (Lost(reaches_server=False), TransientError),
        (Cut(0), TransientError),
        (Flip(5), CorruptError),
        (Status(418), StoreError),
    ],
    ids=str,
)
@pytest.mark.parametrize("matches", [reads_blob, reads_manifest])
def test_lasting_fault_is_refused(
    store: ArtifactStore,
    proxy: Proxy,
    manifest: Manifest,
    tmp_path: Path,
    fault: Fault,
    error: type[StoreError],
    matches: object,
) -> None:
    assert callable(matches)
    proxy.judge = lambda request: fault if matches(request) else None
    with pytest.raises(error) as caught:
        fetch(store, KEY, manifest.digest(), tmp_path / "target")
    assert type(caught.value) is error
    assert "X-Amz" not in str(caught.value)
    assert finished(tmp_path / "target") == set()


def test_url_is_signed_anew_when_its_credentials_have_expired(
    store: ArtifactStore, proxy: Proxy, manifest: Manifest, model: Path, tmp_path: Path
) -> None:
    expired: list[str] = []

    def judge(request: Request) -> Fault | None:
        if not reads_blob(request):
            return None
        (signature,) = request.query["X-Amz-Signature"]
        if not expired:
            expired.append(signature)
            time.sleep(1)  # what is signed within a second is the same
        return Status(400, "ExpiredToken") if signature in expired else None

    proxy.judge = judge
    fetch(store, KEY, manifest.digest(), tmp_path / "target")
    assert (tmp_path / "target/model.gguf").read_bytes() == (model / "model.gguf").read_bytes()


def test_bad_chunk_is_named(store: ArtifactStore, proxy: Proxy, manifest: Manifest, tmp_path: Path) -> None:
    begin, end = 5 << 20, (10 << 20) - 1
    proxy.judge = lambda request: Flip(0) if request.range == f"bytes={begin}-{end}" else None
    with pytest.raises(CorruptError) as caught:
        fetch(store, KEY, manifest.digest(), tmp_path / "target")
    expected = manifest.files[0].chunks[1]
    assert re.fullmatch(
        f"model.gguf, bytes {begin}-{end}: expected {expected}, got sha256:[0-9a-f]{{64}}", str(caught.value)
    )
    assert finished(tmp_path / "target") == set()
    asked = [request.range for request in proxy.seen if request.range == f"bytes={begin}-{end}"]
    assert len(asked) == 4


def test_cut_chunk_goes_on_where_it_was(store: ArtifactStore, proxy: Proxy, manifest: Manifest, tmp_path: Path) -> None:
    proxy.judge = first(1, Cut((1 << 20) + 5), lambda request: request.range == f"bytes=0-{(5 << 20) - 1}")
    fetch(store, KEY, manifest.digest(), tmp_path / "target")
    asked = [int(request.range[6:].split("-")[0]) for request in proxy.seen if request.range]
    assert (1 << 20) in asked or (1 << 20) + 5 in asked


def test_chunks_in_a_row_come_with_one_request_and_a_failure_costs_only_what_it_hit(
    s3: S3, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "WORKERS", 1)  # a model that several could fetch in such runs is large
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    (source / "model.gguf").write_bytes(os.urandom((40 << 20) + 7))
    manifest = manifest_of(source, KEY)
    digest = ArtifactStore(s3.config).publish(manifest, source)
    chunk, end = 5 << 20, (40 << 20) + 6
    faults: dict[str, list[Fault]] = {
        f"bytes=0-{4 * chunk - 1}": [Cut(chunk + (1 << 20))],
        f"bytes={4 * chunk}-{8 * chunk - 1}": [Flip(2 * chunk + 5)],
        f"bytes={6 * chunk}-{8 * chunk - 1}": [Flip(0)],
    }

    def judge(request: Request) -> Fault | None:
        left = faults.get(request.range)
        return left.pop() if left else None

    proxy.judge = judge
    progress: list[int] = []
    fetch(ArtifactStore(s3.through(proxy.url).config), KEY, digest, target, lambda done, _: progress.append(done))
    assert sorted(request.range for request in proxy.seen if reads_blob(request)) == sorted(
        [
            f"bytes=0-{4 * chunk - 1}",
            f"bytes={chunk + (1 << 20)}-{4 * chunk - 1}",
            f"bytes={4 * chunk}-{8 * chunk - 1}",
            f"bytes={6 * chunk}-{8 * chunk - 1}",
            f"bytes={6 * chunk}-{8 * chunk - 1}",
            f"bytes={8 * chunk}-{end}",
        ]
    )
    assert len(progress) == 9
    assert progress[-1] == end + 1
    assert (target / "model.gguf").read_bytes() == (source / "model.gguf").read_bytes()


def test_a_failure_after_each_chunk_does_not_end_a_run(
    s3: S3, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are fewer tries than chunks."""
    monkeypatch.setattr(fetching, "WORKERS", 1)
    monkeypatch.setattr(fetching, "_LONGEST_RUN", 8)
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    (source / "model.gguf").write_bytes(os.urandom(80 << 20))
    manifest = manifest_of(source, KEY)
    digest = ArtifactStore(s3.config).publish(manifest, source)
    proxy.judge = lambda request: Cut(5 << 20) if reads_blob(request) else None
    fetch(ArtifactStore(s3.through(proxy.url).config), KEY, digest, target)
    assert (target / "model.gguf").read_bytes() == (source / "model.gguf").read_bytes()


def test_killed_fetch_does_not_ask_again_for_what_it_has(s3: S3, proxy: Proxy, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    (source / "model.gguf").write_bytes(os.urandom(60 << 20))
    manifest = manifest_of(source, KEY)
    digest = ArtifactStore(s3.config).publish(manifest, source)
    environ = s3.through(proxy.url).env | {
        "EDGEMODEL_ARTIFACT_KEY": KEY,
        "EDGEMODEL_ARTIFACT_DIGEST": digest,
        "EDGEMODEL_MODEL_DIR": str(target),
        "EDGEMODEL_TERMINATION_LOG": str(tmp_path / "termination-log"),
    }
    asked: list[str] = []

    def kill_at_the_tenth(request: Request) -> Fault | None:
        if not reads_blob(request):
            return None
        asked.append(request.range)
        if len(asked) == 10:
            process.kill()
        return Lost(reaches_server=False) if len(asked) >= 10 else None

    proxy.judge = kill_at_the_tenth
    with subprocess.Popen(COMMAND, env=os.environ | environ, stdout=subprocess.DEVNULL) as process:
        assert process.wait(60) == -signal.SIGKILL

    assert finished(target) == set()
    chunks = list(manifest.files[0].ranges())
    data = (target / "model.gguf.partial").read_bytes()
    good = [
        chunk
        for chunk in chunks
        if f"sha256:{hashlib.sha256(data[chunk.start : chunk.start + chunk.size]).hexdigest()}" == chunk.sha256
    ]
    assert good
    # Behind another proxy: the first may only now read what the killed one had asked it.
    with run_proxy(str(s3.config.endpoint)) as another:
        fetch(ArtifactStore(s3.through(another.url).config), KEY, digest, target)
    missing = [f"bytes={start}-{start + size - 1}" for start, size, _ in set(chunks) - set(good)]
    assert sorted(request.range for request in another.seen if reads_blob(request)) == sorted(missing)
    assert (target / "model.gguf").read_bytes() == (source / "model.gguf").read_bytes()
