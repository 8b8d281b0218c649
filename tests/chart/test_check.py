"""What `helm test` runs, against a real store: it passes where all is well, and says what is wrong where it is not."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.chart.chart import CHART
from tests.s3 import S3, find_versitygw, serve


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    if find_versitygw() is None:
        pytest.skip("versitygw is not built: `python3 hack/cluster binaries`")
    with serve(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture(scope="module")
def operator() -> Iterator[str]:
    class Ready(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/readyz" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Ready) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def check(**env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(CHART / "files" / "check.py")],
        env={"PATH": os.environ["PATH"], "CHECK_PATIENCE": "0"} | env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_passes_where_all_is_well(store: S3, operator: str) -> None:
    done = check(OPERATOR_URL=operator, **store.env)
    assert (done.returncode, done.stdout.count("ok      ")) == (0, 2), done.stdout + done.stderr


def test_says_that_the_operator_is_not_ready(store: S3, operator: str) -> None:
    done = check(OPERATOR_URL=f"{operator}/elsewhere", **store.env)
    assert done.returncode == 1
    assert "FAILED  the operator is not ready" in done.stdout
    assert "ok      the store answers" in done.stdout


def test_says_that_the_keys_are_wrong(store: S3, operator: str, tmp_path: Path) -> None:
    (tmp_path / "AWS_ACCESS_KEY_ID").write_text("edgemodel-test")
    (tmp_path / "AWS_SECRET_ACCESS_KEY").write_text("not-the-secret")
    done = check(OPERATOR_URL=operator, **store.env | {"EDGEMODEL_STORE_CREDENTIALS": str(tmp_path)})
    assert done.returncode == 1
    assert "FAILED  the store is not usable" in done.stdout
    assert "not-the-secret" not in done.stdout + done.stderr


def test_says_that_there_is_no_such_bucket(store: S3, operator: str) -> None:
    done = check(OPERATOR_URL=operator, **store.env | {"EDGEMODEL_STORE_URI": "s3://no-such-bucket"})
    assert done.returncode == 1
    assert "FAILED  the store is not usable" in done.stdout
