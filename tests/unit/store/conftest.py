import pytest

from edgemodel.store import client, manifest
from tests.s3 import s3 as s3
from tests.s3 import s3_server as s3_server


@pytest.fixture(autouse=True)
def _small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PAUSES", (0.01,) * 5)
    monkeypatch.setattr(manifest, "CHUNK", 5 << 20)
