"""The init container, run as the kubelet runs it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgemodel.store.artifacts import ArtifactStore
from tests.faults.proxy import Slow, run_proxy
from tests.s3 import S3, manifest_of

KEY = "a1" * 16
COMMAND = [sys.executable, "-c", "from edgemodel.store.fetch_main import main; main()"]


@pytest.fixture
def digest(s3: S3, tmp_path: Path) -> str:
    source = tmp_path / "source"
    source.mkdir()
    (source / "model.gguf").write_bytes(os.urandom(12 << 20))
    return ArtifactStore(s3.config).publish(manifest_of(source, KEY), source)


def environ(s3: S3, digest: str, tmp_path: Path) -> dict[str, str]:
    ours = {
        "EDGEMODEL_ARTIFACT_KEY": KEY,
        "EDGEMODEL_ARTIFACT_DIGEST": digest,
        "EDGEMODEL_MODEL_DIR": str(tmp_path / "target"),
        "EDGEMODEL_TERMINATION_LOG": str(tmp_path / "termination-log"),
    }
    return os.environ | s3.env | ours


def run(env: dict[str, str]) -> tuple[int, dict[str, object], list[dict[str, object]]]:
    """Exit code, termination message and log of a run."""
    done = subprocess.run(COMMAND, env=env, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    said = json.loads(Path(env["EDGEMODEL_TERMINATION_LOG"]).read_text())
    return done.returncode, said, [json.loads(line) for line in done.stdout.splitlines()]


def test_success(s3: S3, digest: str, tmp_path: Path) -> None:
    code, said, log = run(environ(s3, digest, tmp_path))
    assert code == 0
    assert said.keys() == {"bytes", "seconds"}
    assert said["bytes"] == 12 << 20
    assert log[-2] == {"event": "progress", "bytesDone": 12 << 20, "bytesTotal": 12 << 20}
    assert log[-1]["event"] == "end"
    assert (tmp_path / "target" / "model.gguf").read_bytes() == (tmp_path / "source" / "model.gguf").read_bytes()


@pytest.mark.parametrize(
    ("change", "reason", "retry"),
    [
        ({"EDGEMODEL_ARTIFACT_KEY": "0" * 32}, "ArtifactNotFound", False),
        ({"EDGEMODEL_ARTIFACT_KEY": ""}, "StoreMisconfigured", False),
        ({"EDGEMODEL_STORE_URI": ""}, "StoreMisconfigured", False),
        ({"EDGEMODEL_STORE_ENDPOINT": "http://127.0.0.1:1"}, "StoreUnavailable", True),
        ({"EDGEMODEL_MODEL_DIR": "/proc/none"}, "FetchFailed", False),
    ],
)
def test_failure(s3: S3, digest: str, tmp_path: Path, change: dict[str, str], reason: str, retry: bool) -> None:
    code, said, _ = run(environ(s3, digest, tmp_path) | change)
    assert code == 1
    assert said.keys() == {"reason", "message", "retry"}
    assert (said["reason"], said["retry"]) == (reason, retry)


def test_sigterm_stops_it_and_the_next_run_ends_it(s3: S3, digest: str, tmp_path: Path) -> None:
    with run_proxy(str(s3.config.endpoint)) as proxy:
        env = environ(s3.through(proxy.url), digest, tmp_path)
        proxy.judge = lambda request: Slow(100, 1) if "/blobs/" in request.path else None
        process = subprocess.Popen(COMMAND, env=env, stdout=subprocess.PIPE)
        with process:
            proxy.wait_for(lambda request: "/blobs/" in request.path)
            process.terminate()
            assert process.wait(10) == 128 + signal.SIGTERM
        said = json.loads((tmp_path / "termination-log").read_text())
        assert (said["reason"], said["retry"]) == ("Stopped", True)
        assert not (tmp_path / "target" / "model.gguf").exists()
    assert run(environ(s3, digest, tmp_path))[0] == 0
