"""A real S3 server for tests: versitygw over a folder. Import `s3_server` and `s3` into a conftest to use them."""

import os
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest

from edgemodel.api.artifact import ModelFacts, Recipe, ResolvedSource
from edgemodel.store.config import StoreConfig
from edgemodel.store.manifest import Manifest, describe

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

ACCESS_KEY = "edgemodel-test"
SECRET_KEY = "a-secret-that-no-message-may-show"


@dataclass(frozen=True)
class S3:
    """A bucket on the server, and the folder in which the server keeps it."""

    config: StoreConfig
    files: Path

    @property
    def env(self) -> dict[str, str]:
        """What a container's environment says of this store."""
        return {
            "EDGEMODEL_STORE_URI": f"s3://{self.config.bucket}/{self.config.prefix}",
            "EDGEMODEL_STORE_ENDPOINT": str(self.config.endpoint),
            "EDGEMODEL_STORE_CREDENTIALS": str(self.config.credentials),
        }

    def through(self, endpoint: str) -> "S3":
        """The same bucket behind another address."""
        return replace(self, config=replace(self.config, endpoint=endpoint))

    def keys(self) -> set[str]:
        """All objects in the bucket."""
        found = (path for path in self.files.rglob("*") if path.is_file())
        relative = (path.relative_to(self.files).as_posix() for path in found)
        return {path.removeprefix(f"{self.config.prefix}/") for path in relative if not path.startswith(".sgwtmp")}

    def uploads(self) -> list[str]:
        """The keys of the uploads that were begun and not completed."""
        client = _client(self)
        found = [
            upload["Key"] for upload in client.list_multipart_uploads(Bucket=self.config.bucket).get("Uploads", ())
        ]
        client.close()
        return found


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def find_versitygw() -> Path | None:
    """The server's program, as the cluster tool builds it."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = Path(os.environ.get("EDGEMODEL_CACHE") or home / "edgemodel")
    found = sorted(cache.glob("binaries-*/versitygw"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None


@contextmanager
def serve(folder: Path, region: str = "us-east-1") -> Iterator[S3]:
    """Runs the server over a new folder below `folder`."""
    program = find_versitygw()
    if program is None:
        raise FileNotFoundError("versitygw is not built: `python -m hack.cluster` builds it into $EDGEMODEL_CACHE")
    data = folder / "s3"
    credentials = folder / "credentials"
    for made in (data, credentials):
        made.mkdir(parents=True)
    (credentials / "AWS_ACCESS_KEY_ID").write_text(ACCESS_KEY)
    (credentials / "AWS_SECRET_ACCESS_KEY").write_text(SECRET_KEY)
    port = free_port()
    command: list[str | Path] = [program, "--port", f"127.0.0.1:{port}", "--region", region, "--quiet", "--keep-alive"]
    secrets = {"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY}
    with (
        (folder / "versitygw.log").open("wb") as log,
        subprocess.Popen([*command, "posix", data], env=os.environ | secrets, stdout=log, stderr=log) as server,
    ):
        try:
            _wait(server, port, folder / "versitygw.log")
            yield new_bucket(S3(StoreConfig("unused", "", f"http://127.0.0.1:{port}", region, credentials), data))
        finally:
            server.kill()  # asked to, it would wait for its clients


def new_bucket(server: S3) -> S3:
    """Another bucket on the same server."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    client = _client(server)
    client.create_bucket(Bucket=name)
    client.close()
    root = server.files if server.config.bucket == "unused" else server.files.parent
    return S3(replace(server.config, bucket=name, prefix="edge/models"), root / name)


def manifest_of(folder: Path, key: str) -> Manifest:
    """A manifest for the files in a folder. The first is the entrypoint; what else it says does not matter."""
    files = describe(folder)
    return Manifest(
        key=key,
        format="gguf",
        files=files,
        entrypoint=files[0].path,
        recipe=Recipe(toolchain="test", toolchain_version="1", scheme="none"),
        source=ResolvedSource(
            digest=f"sha256:{'0' * 64}", format="gguf", bytes=0, model=ModelFacts(architecture="none", parameters=0)
        ),
        source_uri="pvc://none/none",
    )


def _client(server: S3) -> "S3Client":
    return boto3.client(
        "s3",
        endpoint_url=server.config.endpoint,
        region_name=server.config.region,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
    )


def _wait(server: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"versitygw ended: {log.read_text()}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError(f"versitygw does not listen: {log.read_text()}")


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """The server, one for all tests."""
    if find_versitygw() is None:
        pytest.skip("versitygw is not built: hack/cluster builds it into $EDGEMODEL_CACHE/binaries-*")
    with serve(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3(s3_server: S3) -> S3:
    """A bucket of its own for the test."""
    return new_bucket(s3_server)
