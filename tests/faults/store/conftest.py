import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgemodel.store import client, manifest
from tests.faults.proxy import Proxy, run_proxy
from tests.s3 import S3
from tests.s3 import s3 as s3
from tests.s3 import s3_server as s3_server


@pytest.fixture(autouse=True)
def _small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PAUSES", (0.01,) * 3)
    monkeypatch.setattr(manifest, "CHUNK", 5 << 20)


@pytest.fixture
def proxy(s3: S3) -> Iterator[Proxy]:
    """In front of the server."""
    with run_proxy(str(s3.config.endpoint)) as running:
        yield running


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of three chunks, and a small file."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.gguf").write_bytes(os.urandom((10 << 20) + 7))
    (folder / "tokenizer.json").write_bytes(b"shared")
    return folder
