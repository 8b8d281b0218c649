"""Real engines, without a cluster: what takes seconds to minutes."""

import os

import pytest

from edgemodel.pipeline.sources import base
from tests.llamacpp import llamacpp as llamacpp
from tests.minilm import minilm as minilm
from tests.mlx import mlx as mlx
from tests.onnx import onnx as onnx
from tests.onnx import onnx_artifacts as onnx_artifacts
from tests.openvino import openvino as openvino
from tests.qnn import qnn as qnn
from tests.qnn import qnn_source as qnn_source
from tests.qnn import qnn_turned as qnn_turned
from tests.s3 import s3 as s3
from tests.s3 import s3_server as s3_server


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "PAUSES", (0.01,) * 4)


@pytest.fixture(scope="session", autouse=True)
def _a_core_for_each_worker() -> None:
    """Tests that run side by side keep to a core each: threads that wait for each other by spinning, on cores that
    others use too, take ten times as long."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})
