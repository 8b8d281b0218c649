"""Objects in a bucket, with the source's own credentials."""

import re
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, TypedDict
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from edgemodel.pipeline.errors import (
    AddressRefusedError,
    SourceChangedError,
    SourceError,
    SourceNotFoundError,
    SourceUnauthorizedError,
    SourceUnavailableError,
)
from edgemodel.pipeline.sources.base import RemoteReader, SourceFile, below, safe_path
from edgemodel.pipeline.sources.credentials import Credentials
from edgemodel.pipeline.sources.http import check_host, refusal
from edgemodel.store.client import EXPIRED
from edgemodel.store.config import Keys
from edgemodel.store.rotation import rotating

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

_BLOCK = 1 << 18
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


class _Version(TypedDict, total=False):
    VersionId: str


class S3Reader(RemoteReader):
    """`BUCKET/PREFIX`, all objects below it, or one object, which may be of a certain version."""

    def __init__(self, path: str, version: str | None, sha256: str | None, credentials: Credentials) -> None:
        self._bucket, _, inside = path.partition("/")
        self._inside = inside.strip("/")
        if not _BUCKET.fullmatch(self._bucket):
            raise SourceNotFoundError("an S3 source is named s3://BUCKET/PREFIX: correct spec.source.uri")
        self._version = _Version(VersionId=version) if version else _Version()
        self._sha256 = sha256 or ""
        self._client = _client(credentials)
        self._prefix = ""
        self.revision = version or ""

    def files(self) -> list[SourceFile]:
        """The objects. Each is told apart by its ETag, and by its version where one was asked for."""
        try:
            found = self._one() if self._inside else None
            if isinstance(found, SourceFile):
                self._prefix = self._inside[: self._inside.rfind("/") + 1]
                return [found]
            prefix = f"{self._inside}/" if self._inside else ""
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
            objects = [entry for page in pages for entry in page.get("Contents", ()) if not entry["Key"].endswith("/")]
            if found and not objects and _status(found) != 404:
                raise found
        except (BotoCoreError, ClientError, HTTPError) as error:
            raise self._translate(error) from None
        listed = [
            SourceFile(safe_path(entry["Key"]), entry["Size"], version=entry["ETag"].strip('"')) for entry in objects
        ]
        self._prefix, files = below(listed, self._inside)
        return files

    def stream(self, file: SourceFile, start: int, size: int) -> Iterator[bytes]:
        """A range of an object, as long as it is still the one that was listed."""
        if not size:
            return
        try:
            answer = self._client.get_object(
                Bucket=self._bucket,
                Key=self._prefix + file.path,
                Range=f"bytes={start}-{start + size - 1}",
                IfMatch=file.version.partition(" ")[0],
                **self._version,
            )
        except (BotoCoreError, ClientError, HTTPError) as error:
            raise self._translate(error) from None
        with answer["Body"] as body:
            try:
                while block := body.read(_BLOCK):
                    yield block
            except (BotoCoreError, HTTPError, OSError):
                return

    def _one(self) -> SourceFile | ClientError:
        """The object that has exactly this name, or why it is not seen: a policy may permit only what is below it."""
        try:
            head = self._client.head_object(Bucket=self._bucket, Key=self._inside, **self._version)
        except ClientError as error:
            if self._version:
                raise
            return error
        version = " ".join(filter(None, (head["ETag"].strip('"'), head.get("VersionId", ""))))
        name = safe_path(self._inside).rpartition("/")[2]
        return SourceFile(name, head["ContentLength"], self._sha256, version)

    def _translate(self, error: Exception) -> SourceError:
        where = f"the bucket {self._bucket!r}"
        if isinstance(error, ClientError):
            if _status(error) == 412:
                return SourceChangedError(f"an object in {where} changed while it was read")
            if error.response.get("Error", {}).get("Code") in EXPIRED:
                return SourceUnauthorizedError(f"the access key for {where} has expired: renew it in the Secret")
            return refusal(_status(error), where, "access key")
        return SourceUnavailableError(f"{where} cannot be reached: {type(error).__name__}")


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _keys(credentials: Credentials) -> Keys:
    access_key, secret_key = (credentials.get(name) or "" for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))
    return Keys(access_key, secret_key, credentials.optional("AWS_SESSION_TOKEN"))


def _client(credentials: Credentials) -> "S3Client":
    endpoint = credentials.optional("AWS_ENDPOINT_URL")
    if endpoint:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise AddressRefusedError("AWS_ENDPOINT_URL of the source's Secret is no URL: write https://HOST:PORT")
        check_host(parts.hostname)
    session = botocore.session.Session()
    if credentials.folder:
        session.register_component("credential_provider", rotating(partial(_keys, credentials)))
    public = session.get_credentials() is None
    return boto3.Session(botocore_session=session).client(
        "s3",
        region_name=credentials.optional("AWS_REGION") or "us-east-1",
        endpoint_url=endpoint,
        config=Config(
            signature_version=UNSIGNED if public else "s3v4",
            s3={"addressing_style": "path" if endpoint else "auto"},
            retries={"mode": "standard", "total_max_attempts": 5},
            connect_timeout=10,
            read_timeout=60,
            max_pool_connections=16,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
