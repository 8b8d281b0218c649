from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest

from edgemodel.api.artifact import Source
from edgemodel.pipeline.errors import (
    AddressRefusedError,
    PathRefusedError,
    SecretNotFoundError,
    SourceChangedError,
    SourceNotFoundError,
    SourceUnauthorizedError,
    SourceUnavailableError,
)
from edgemodel.pipeline.resolve import resolve
from edgemodel.pipeline.sources import SourceReader, base, open_source
from tests.faults.proxy import Status, run_proxy
from tests.s3 import ACCESS_KEY, S3, SECRET_KEY
from tests.unit.pipeline.models import TINYSAWYER, llama_gguf

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client


class Bucket:
    """A bucket with a model, and a Secret for it."""

    def __init__(self, s3: S3, client: "S3Client", secret: Path) -> None:
        self.name = s3.config.bucket
        self.client = client
        self.secret = secret
        self.files = {path.name: path.read_bytes() for path in TINYSAWYER.iterdir()}
        for name, data in self.files.items():
            self.put(f"models/tiny/{name}", data)
        self.keys(AWS_ACCESS_KEY_ID=ACCESS_KEY, AWS_SECRET_ACCESS_KEY=SECRET_KEY, AWS_ENDPOINT_URL=s3.config.endpoint)

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=data)

    def keys(self, **keys: str | None) -> None:
        self.secret.mkdir(exist_ok=True)
        for name, value in keys.items():
            (self.secret / name).write_text(value or "")

    def open(self, path: str = "/models/tiny", revision: str | None = None) -> SourceReader:
        return open_source(
            Source(uri=f"s3://{self.name}{path}", revision=revision), {"EDGEMODEL_SOURCE_CREDENTIALS": str(self.secret)}
        )


@pytest.fixture
def bucket(s3: S3, tmp_path: Path) -> Iterator[Bucket]:
    client = boto3.client(
        "s3",
        endpoint_url=s3.config.endpoint,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
    )
    yield Bucket(s3, client, tmp_path / "secret")
    client.close()


def test_a_folder_arrives_whole(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "RANGE", 1 << 20)
    reader = bucket.open()
    for file in resolve(reader).files:
        reader.fetch(file, tmp_path / "model" / file.path, lambda _: None)
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == bucket.files


def test_the_digest_follows_the_content(bucket: Bucket) -> None:
    digest = resolve(bucket.open()).resolved.digest
    assert resolve(bucket.open("/models/tiny/")).resolved.digest == digest
    bucket.put("models/tiny/tokenizer.json", b"{}")
    assert resolve(bucket.open()).resolved.digest != digest


def test_one_object_can_be_named(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("one/tiny.gguf", llama_gguf())
    reader = bucket.open("/one/tiny.gguf")
    (file,) = resolve(reader).files
    reader.fetch(file, tmp_path / "tiny.gguf", lambda _: None)
    assert (tmp_path / "tiny.gguf").read_bytes() == llama_gguf()


def test_an_object_that_changes_is_told(bucket: Bucket, tmp_path: Path) -> None:
    reader = bucket.open()
    (file,) = [file for file in resolve(reader).files if file.path == "model.safetensors"]
    bucket.put("models/tiny/model.safetensors", bytes(file.size))
    with pytest.raises(SourceChangedError, match="changed while it was read"):
        reader.fetch(file, tmp_path / "weights", lambda _: None)


def test_a_wrong_secret_is_unauthorized(bucket: Bucket) -> None:
    bucket.keys(AWS_SECRET_ACCESS_KEY="wrong-secret")
    with pytest.raises(SourceUnauthorizedError, match="access key is wrong") as caught:
        resolve(bucket.open())
    assert "wrong-secret" not in caught.value.termination()


def test_a_rotated_secret_is_used_at_once(bucket: Bucket) -> None:
    bucket.keys(AWS_SECRET_ACCESS_KEY="not yet right")
    reader = bucket.open()
    with pytest.raises(SourceUnauthorizedError):
        reader.files()
    bucket.keys(AWS_SECRET_ACCESS_KEY=SECRET_KEY)
    assert {file.path for file in reader.files()} == bucket.files.keys()


def test_expired_keys_are_unauthorized(s3: S3, bucket: Bucket) -> None:
    with run_proxy(str(s3.config.endpoint)) as proxy:
        bucket.keys(AWS_ENDPOINT_URL=proxy.url)
        proxy.judge = lambda request: Status(400, "ExpiredToken") if request.range else None
        with pytest.raises(SourceUnauthorizedError, match="has expired"):
            resolve(bucket.open())


def test_a_right_to_what_is_in_the_folder_is_enough(s3: S3, bucket: Bucket) -> None:
    """Which does not extend to an object with the folder's own name."""
    with run_proxy(str(s3.config.endpoint)) as proxy:
        bucket.keys(AWS_ENDPOINT_URL=proxy.url)
        proxy.judge = lambda request: Status(403, "AccessDenied") if request.method == "HEAD" else None
        assert {file.path for file in bucket.open().files()} == bucket.files.keys()
        for nothing_listed in (bucket.open("/models/none"), bucket.open(revision="1")):
            with pytest.raises(SourceUnauthorizedError):
                nothing_listed.files()
        proxy.judge = lambda _: Status(403, "AccessDenied")
        with pytest.raises(SourceUnauthorizedError):
            bucket.open().files()


def test_a_secret_without_keys_is_named(bucket: Bucket) -> None:
    (bucket.secret / "AWS_ACCESS_KEY_ID").unlink()
    with pytest.raises(SecretNotFoundError, match="AWS_ACCESS_KEY_ID"):
        bucket.open()


@pytest.mark.parametrize("path", ["/models/none", "-that-is-not-there/models"])
def test_what_is_not_there_is_not_found(bucket: Bucket, path: str) -> None:
    with pytest.raises(SourceNotFoundError):
        resolve(bucket.open(path))


def test_a_server_that_is_away_is_to_be_tried_later(bucket: Bucket) -> None:
    bucket.keys(AWS_ENDPOINT_URL="http://127.0.0.1:9")
    with pytest.raises(SourceUnavailableError, match="cannot be reached"):
        resolve(bucket.open())


@pytest.mark.parametrize("endpoint", ["http://169.254.169.254", "http://[fe80::1]:9000", "ftp://files", "nonsense"])
def test_an_endpoint_that_no_source_has_is_refused(bucket: Bucket, endpoint: str) -> None:
    bucket.keys(AWS_ENDPOINT_URL=endpoint)
    with pytest.raises(AddressRefusedError):
        bucket.open()


def test_keys_that_leave_the_folder_are_refused(bucket: Bucket) -> None:
    bucket.put("models/tiny/a\\b.json", b"{}")
    with pytest.raises(PathRefusedError):
        resolve(bucket.open())
