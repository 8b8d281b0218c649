"""What a client of the store sends, and where to."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from edgemodel.store.client import Bucket, answered
from edgemodel.store.config import StoreConfig
from edgemodel.store.errors import StoreConfigError, TransientError


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The hosts that a proxy was asked for, which reaches none of them."""
    hosts: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_CONNECT(self) -> None:
            hosts.append(self.path)
            self.send_error(502)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield hosts
        server.shutdown()


@pytest.mark.parametrize(
    ("bucket", "host"),
    [
        ("models", "models.s3.eu-central-1.amazonaws.com:443"),
        ("my.models", "s3.eu-central-1.amazonaws.com:443"),  # whose name would not fit AWS's certificate
    ],
)
def test_streams_come_from_the_region_that_calls_go_to(
    asked: list[str], tmp_path: Path, bucket: str, host: str
) -> None:
    (tmp_path / "AWS_ACCESS_KEY_ID").write_text("key")
    (tmp_path / "AWS_SECRET_ACCESS_KEY").write_text("secret")
    store = Bucket(StoreConfig(bucket, region="eu-central-1", credentials=tmp_path))
    with pytest.raises(TransientError):
        store.size("blob")
    assert set(asked) == {host}
    asked.clear()
    with pytest.raises(TransientError):
        list(store.stream("blob", 0, 1))
    assert asked == [host]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "AuthorizationHeaderMalformed"),
        (400, "AuthorizationQueryParametersError"),
        (400, "IllegalLocationConstraintException"),
        (301, "PermanentRedirect"),
        (307, "TemporaryRedirect"),
        (301, ""),  # of a HEAD, which has no body
    ],
)
def test_a_bucket_in_another_region_is_a_matter_of_configuration(status: int, code: str) -> None:
    error = answered(status, code, "get it")
    assert type(error) is StoreConfigError
    assert "EDGEMODEL_STORE_REGION" in str(error)
