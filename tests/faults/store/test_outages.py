"""A store that is away for longer than a call is tried again: who would lose work for it waits until it is back."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgemodel.api.artifact import Recipe, ResolvedSource, Source
from edgemodel.pipeline import job
from edgemodel.pipeline.progress import Step
from edgemodel.pipeline.resolve import resolve
from edgemodel.pipeline.sources import open_source
from edgemodel.pipeline.toolchain import Product
from edgemodel.store import client
from edgemodel.store.artifacts import ArtifactStore
from edgemodel.store.errors import CorruptError, TransientError
from tests.faults.proxy import Damage, Proxy, Status, first, reads_blob
from tests.s3 import S3, manifest_of
from tests.unit.pipeline.models import TINYSAWYER

KEY = "a1" * 16
LONGER = 12
"""Tries that a call does not make which nobody has the patience for."""


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PATIENCE", (0.01,) * 30)


class Toolchain:
    """Its artifact is the folder, made long ago."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def check(self, recipe: Recipe) -> None: ...

    def make(
        self, source: Path, resolved: ResolvedSource, recipe: Recipe, work: Path, begin: Callable[[str], Step]
    ) -> Product:
        return Product(self.folder, "model.gguf", "gguf", {}, 1, None)


@pytest.fixture
def environ(s3: S3, proxy: Proxy, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What a Job is told."""
    monkeypatch.setattr(job, "toolchain", lambda _: Toolchain(model))
    environ = s3.through(proxy.url).env | {"PVC_ROOT": str(TINYSAWYER.parent), "EDGEMODEL_WORK": str(tmp_path / "work")}
    source = Source(uri=f"pvc://claim/{TINYSAWYER.name}")
    resolved = resolve(open_source(source, environ)).resolved
    recipe = Recipe(toolchain="test", toolchain_version="1", scheme="none")
    request = job.JobRequest(key=KEY, source=source, resolved=resolved, recipe=recipe)
    return environ | {"EDGEMODEL_JOB": request.model_dump_json(by_alias=True)}


def test_a_job_waits_for_its_store_and_says_so(
    s3: S3, proxy: Proxy, environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    proxy.judge = first(LONGER, Status(503), lambda request: request.query.get("partNumber") == ["1"])
    result = job.run(environ)
    published = ArtifactStore(s3.config).read_manifest(KEY)
    assert published is not None
    assert published.digest == result.manifest_digest
    said = [json.loads(line)["message"] for line in capsys.readouterr().out.splitlines()]
    assert said.count("the store is away: waiting for it") == 1


def test_a_job_that_has_nothing_to_lose_does_not_wait(proxy: Proxy, environ: dict[str, str]) -> None:
    proxy.judge = lambda _: Status(503)
    with pytest.raises(TransientError):
        job.run(environ)
    assert len(proxy.seen) == len(client.PAUSES) + 1


def test_what_deletes_does_not_wait(s3: S3, proxy: Proxy, model: Path) -> None:
    """A removal that others take for abandoned must not go on."""
    ArtifactStore(s3.config).publish(manifest_of(model, KEY), model)
    store = ArtifactStore(s3.through(proxy.url).config, lambda _: None)
    proxy.judge = lambda request: Status(503) if request.method == "DELETE" and "/blobs/" in request.path else None
    with pytest.raises(TransientError):
        store.remove(KEY, "owner")
    tries = len(client.PAUSES) + 1
    assert sum("/blobs/" in request.path for request in proxy.seen if request.method == "DELETE") <= 2 * tries


def test_damage_is_no_outage(s3: S3, proxy: Proxy, model: Path) -> None:
    store = ArtifactStore(s3.through(proxy.url).config, lambda _: None)
    proxy.judge = lambda request: Damage() if request.query.get("partNumber") == ["1"] else None
    with pytest.raises(CorruptError):
        store.publish(manifest_of(model, KEY), model)
    assert sum(request.query.get("partNumber") == ["1"] for request in proxy.seen) == len(client.PAUSES) + 1


def test_a_fetch_that_has_begun_waits_for_its_store_and_says_so(
    s3: S3, proxy: Proxy, model: Path, tmp_path: Path
) -> None:
    manifest = manifest_of(model, KEY)
    digest = ArtifactStore(s3.config).publish(manifest, model)
    told = s3.through(proxy.url).env | {
        "EDGEMODEL_ARTIFACT_KEY": KEY,
        "EDGEMODEL_ARTIFACT_DIGEST": digest,
        "EDGEMODEL_MODEL_DIR": str(tmp_path / "target"),
        "EDGEMODEL_TERMINATION_LOG": str(tmp_path / "termination-log"),
    }
    quick = "from edgemodel.store import client; client.PAUSES = (0.01,) * 3; client.PATIENCE = (0.01,) * 30"
    command = [sys.executable, "-c", f"{quick}; from edgemodel.store.fetch_main import main; main()"]
    proxy.judge = first(
        LONGER, Status(503), lambda request: reads_blob(request) and request.range.startswith("bytes=5")
    )
    done = subprocess.run(command, env=os.environ | told, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "target/model.gguf").read_bytes() == (model / "model.gguf").read_bytes()
    waits = [line for line in map(json.loads, done.stdout.splitlines()) if line["event"] == "waiting"]
    assert len(waits) == 1
    assert "503" in waits[0]["message"]
