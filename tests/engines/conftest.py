"""Real engines, without a cluster: what takes seconds to minutes."""

import pytest

from edgemodel.pipeline.sources import base
from tests.llamacpp import llamacpp as llamacpp
from tests.s3 import s3 as s3
from tests.s3 import s3_server as s3_server


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "PAUSES", (0.01,) * 4)
