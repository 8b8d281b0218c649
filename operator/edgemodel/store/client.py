"""S3 as the store needs it: one call a method, each tried again where that can help, each failure a `StoreError`.

botocore's own retries are off, because they know nothing of a body that breaks off. Its automatic checksums are off
too, because not every S3 takes them as trailers: the SHA-256 that the server must check is sent as a header instead.
"""

import base64
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from email.utils import parsedate_to_datetime
from functools import cache, lru_cache, partial
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict, TypeVar, Unpack
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
)
from botocore.httpsession import get_cert_path
from botocore.loaders import Loader, create_loader
from botocore.parsers import ResponseParserError
from botocore.utils import get_environ_proxies
from urllib3 import HTTPResponse, PoolManager, ProxyManager, Timeout
from urllib3.exceptions import HTTPError

from edgemodel.store.config import Keys, StoreConfig
from edgemodel.store.errors import (
    ConflictError,
    CorruptError,
    DeniedError,
    ExpiredError,
    NotFoundError,
    StoreConfigError,
    StoreError,
    TransientError,
)
from edgemodel.store.manifest import Chunk, File, sha256
from edgemodel.store.parallel import WORKERS, run_all
from edgemodel.store.rotation import rotating

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_s3.type_defs import CompletedPartTypeDef, ListObjectsV2OutputTypeDef

T = TypeVar("T")
Waits = Callable[[StoreError], None]
"""Hears what a call waits for, when the first pauses did not help."""

PAUSES = (0.2, 0.5, 1.0, 2.0, 4.0)
"""Seconds between attempts, before jitter."""
PATIENCE = (*PAUSES, 8.0, 16.0, *[30.0] * 32)
"""The same of who would lose work: about a quarter of an hour."""
_CONNECT_SECONDS = 5
_READ_SECONDS = 30
_DOCUMENT_LIMIT = 64 << 20
_BLOCK = 512 << 10
"""Bytes of a body at a time: so few that they are still in the processor's cache when they are hashed and written."""
_URL_SECONDS = 3600
_URL_REUSED_SECONDS = 300


class Document(NamedTuple):
    """A small object."""

    data: bytes
    etag: str


class Listed(NamedTuple):
    """An object in a listing."""

    key: str
    age: float
    """Seconds since it was written, by the server's clock."""


class _Condition(TypedDict, total=False):
    IfNoneMatch: str
    IfMatch: str


@cache
def _service_descriptions() -> Loader:
    """What botocore knows about services, in megabytes of JSON: read once a process, not once a client."""
    loader: Loader = create_loader()
    return loader


class Bucket:
    """The objects under the store's prefix. Keys are relative to it. Safe to share between threads."""

    def __init__(self, config: StoreConfig, waits: Waits | None = None) -> None:
        session = botocore.session.Session()
        session.register_component("data_loader", _service_descriptions())
        if config.credentials:
            session.register_component("credential_provider", rotating(partial(Keys.read, config.credentials)))
        self._client: S3Client = boto3.Session(botocore_session=session).client(
            "s3",
            region_name=config.region,
            endpoint_url=config.endpoint,
            config=Config(
                signature_version="s3v4",
                # "auto" signs URLs for AWS's global host, which redirects to the region's, and streams do not follow.
                s3={"addressing_style": "path" if config.endpoint else "virtual"},
                retries={"total_max_attempts": 1},
                connect_timeout=_CONNECT_SECONDS,
                read_timeout=_READ_SECONDS,
                max_pool_connections=2 * WORKERS,
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
        self._client.meta.events.register_last("before-parameter-build.s3", _keep_region)
        self._waits = waits
        self._bucket = config.bucket
        self._prefix = f"{config.prefix}/" if config.prefix else ""
        self._http = _connections(self._client.meta.endpoint_url)
        self._url = lru_cache(self._sign)

    def get(self, key: str, digest: str | None = None) -> Document | None:
        """A small object, or None. If a digest is given, the object must have it."""

        def call() -> Document:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key, ChecksumMode="ENABLED")
            with closing(answer["Body"]) as body:
                if answer["ContentLength"] > _DOCUMENT_LIMIT:
                    raise CorruptError(f"{key} has {answer['ContentLength']} bytes, far too many")
                data = body.read()
            if digest not in {None, sha256(data)}:
                raise CorruptError(f"{key}: expected {digest}, got {sha256(data)}")
            return Document(data, answer["ETag"])

        return self._or_none(f"get {key}", call)

    def size(self, key: str) -> int | None:
        """The size of an object, or None."""

        def call() -> int:
            return self._client.head_object(Bucket=self._bucket, Key=self._prefix + key)["ContentLength"]

        return self._or_none(f"head {key}", call)

    def put(self, key: str, data: bytes) -> None:
        """Writes a small object."""
        self._put(key, data)

    def put_new(self, key: str, data: bytes) -> None:
        """Writes a small object unless there is one: `ConflictError`."""
        self._put(key, data, IfNoneMatch="*")

    def replace(self, key: str, data: bytes, etag: str) -> None:
        """Writes over the object that has this etag. If it has another: `ConflictError`."""
        self._put(key, data, IfMatch=etag)

    def delete(self, key: str) -> None:
        """Deletes an object, if it is there. No patience here: a removal must end before it counts as abandoned."""
        bucket, full = self._bucket, self._prefix + key
        with suppress(NotFoundError):
            persistent(_attempt(f"delete {key}", lambda: self._client.delete_object(Bucket=bucket, Key=full)))

    def below(self, folder: str) -> list[Listed]:
        """All objects below a folder."""
        found: list[Listed] = []
        token = ""
        while True:
            page = self._page(folder, token)
            now = parsedate_to_datetime(page["ResponseMetadata"]["HTTPHeaders"]["date"])
            found += [
                Listed(entry["Key"].removeprefix(self._prefix), (now - entry["LastModified"]).total_seconds())
                for entry in page.get("Contents", ())
            ]
            token = page.get("NextContinuationToken", "")
            if not token:
                return found

    def upload(self, key: str, source: Path, file: File, sent: Callable[[int], None]) -> None:
        """Writes a file. The server checks the digest of each part; `sent` hears of the bytes that are through."""
        with source.open("rb") as stream:
            if len(file.chunks) > 1:
                self._upload_parts(key, stream.fileno(), file, sent)
            else:
                self._put(key, stream.read(file.bytes), file.sha256)
                sent(file.bytes)

    def _upload_parts(self, key: str, descriptor: int, file: File, sent: Callable[[int], None]) -> None:
        bucket, full = self._bucket, self._prefix + key
        upload = self._call(
            f"upload {key}",
            lambda: self._client.create_multipart_upload(Bucket=bucket, Key=full, ChecksumAlgorithm="SHA256"),
        )["UploadId"]

        def part(numbered: tuple[int, Chunk]) -> "CompletedPartTypeDef":
            number, chunk = numbered
            checksum = _base64(chunk.sha256)
            data = os.pread(descriptor, chunk.size, chunk.start)
            answer = self._call(
                f"upload {key} from byte {chunk.start}",
                lambda: self._client.upload_part(
                    Bucket=bucket, Key=full, UploadId=upload, PartNumber=number, Body=data, ChecksumSHA256=checksum
                ),
            )
            sent(len(data))
            return {"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": checksum}

        try:
            parts = run_all(part, enumerate(file.ranges(), 1), WORKERS // 2)
            self._call(
                f"complete {key}",
                lambda: self._client.complete_multipart_upload(
                    Bucket=bucket, Key=full, UploadId=upload, MultipartUpload={"Parts": parts}
                ),
            )
        except StoreError:
            self._abort(key, upload)
            raise

    def abort_uploads(self, key: str) -> None:
        """Drops every upload of this object that was begun and not completed, if that is permitted."""
        full = self._prefix + key

        def call() -> list[str]:
            pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=full)
            return [upload["UploadId"] for page in pages for upload in page.get("Uploads", ()) if upload["Key"] == full]

        with suppress(DeniedError):
            for upload in self._call(f"list the uploads of {key}", call):
                self._abort(key, upload)

    def stream(self, key: str, start: int, size: int) -> Iterator[memoryview]:
        """A range of an object as it arrives: blocks, each of which is good until the next one. This is one attempt.

        It does not go through boto, whose bodies cost a third of the speed.
        """
        what = f"read {key} from byte {start}"
        url = self._url(key, time.monotonic() // _URL_REUSED_SECONDS)
        wanted = {"Range": f"bytes={start}-{start + size - 1}"}
        block = memoryview(bytearray(_BLOCK))
        try:
            answer = self._http.request(
                "GET", url, headers=wanted, preload_content=False, decode_content=False, retries=False
            )
            try:
                if answer.status != 206:
                    self._url.cache_clear()  # its credentials may have expired
                    raise answered(answer.status, _code(answer.read(_BLOCK)), what)
                # urllib3's own `read` takes other memory for each block, which is slower by a twentieth.
                assert isinstance(answer, HTTPResponse)
                assert answer._fp is not None
                while size:
                    count = answer._fp.readinto(block[:size])
                    if not count:
                        raise TransientError(f"{what}: the answer ended early")
                    size -= count
                    yield block[:count]
                answer.release_conn()
            finally:
                answer.close()
        except (HTTPError, HTTPException, OSError) as error:
            raise TransientError(f"{what}: {type(error).__name__}") from None

    def _sign(self, key: str, _period: float) -> str:
        """A URL that lets its bearer read the object. A new one for each period, as credentials rotate."""
        return self._call(
            f"sign {key}",
            lambda: self._client.generate_presigned_url(
                "get_object", Params={"Bucket": self._bucket, "Key": self._prefix + key}, ExpiresIn=_URL_SECONDS
            ),
        )

    def _put(self, key: str, data: bytes, digest: str | None = None, **condition: Unpack[_Condition]) -> None:
        checksum = _base64(digest or sha256(data))
        self._call(
            f"put {key}",
            lambda: self._client.put_object(
                Bucket=self._bucket, Key=self._prefix + key, Body=data, ChecksumSHA256=checksum, **condition
            ),
        )

    def _page(self, folder: str, token: str) -> "ListObjectsV2OutputTypeDef":
        bucket, prefix = self._bucket, self._prefix + folder
        if not token:
            return self._call(f"list {folder}", lambda: self._client.list_objects_v2(Bucket=bucket, Prefix=prefix))
        return self._call(
            f"list {folder}",
            lambda: self._client.list_objects_v2(Bucket=bucket, Prefix=prefix, ContinuationToken=token),
        )

    def _abort(self, key: str, upload: str) -> None:
        bucket, full = self._bucket, self._prefix + key
        with suppress(NotFoundError, DeniedError):  # it only saves room
            persistent(
                _attempt(
                    f"abort {key}",
                    lambda: self._client.abort_multipart_upload(Bucket=bucket, Key=full, UploadId=upload),
                )
            )

    def _or_none(self, what: str, call: Callable[[], T]) -> T | None:
        try:
            return self._call(what, call)
        except NotFoundError:
            return None

    def _call(self, what: str, call: Callable[[], T]) -> T:
        return persistent(_attempt(what, call), self._waits)


def _attempt(what: str, call: Callable[[], T]) -> Callable[[], T]:
    """The call, whose failure is a `StoreError`."""

    def attempt() -> T:
        try:
            return call()
        except (BotoCoreError, ClientError, ResponseParserError) as error:
            # What botocore says may hold what the server said, so it is not passed on.
            raise _translate(error, what) from None

    return attempt


PASSING = (TransientError, CorruptError, ExpiredError)
"""What another try can help against."""


def persistent(call: Callable[[], T], waits: Waits | None = None) -> T:
    """The result of `call`, which is tried again where that can help: with patience if `waits` hears of it."""
    for failures, pause in enumerate(PATIENCE if waits else PAUSES):
        try:
            return call()
        except PASSING as error:
            if waits and failures == len(PAUSES):
                if isinstance(error, CorruptError):  # which no time mends
                    raise
                waits(error)
        time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - no secret
    return call()


def _keep_region(context: dict[str, dict[str, object]], **_: object) -> None:
    """Has botocore take the call for one that it has redirected already. It would correct a wrong region for calls, but
    not for the URLs that streams read."""
    context["s3_redirect"]["redirected"] = True


def _connections(endpoint: str) -> PoolManager:
    """Connections as boto makes them: through the same proxy, trusting the same authorities."""
    proxy = get_environ_proxies(endpoint).get(urlsplit(endpoint).scheme)
    authorities = os.environ.get("AWS_CA_BUNDLE") or get_cert_path(True)
    timeout = Timeout(connect=_CONNECT_SECONDS, read=_READ_SECONDS)
    if proxy:
        return ProxyManager(proxy, maxsize=WORKERS, timeout=timeout, ca_certs=authorities)
    return PoolManager(maxsize=WORKERS, timeout=timeout, ca_certs=authorities)


def _translate(error: Exception, what: str) -> StoreError:
    """What a failure of botocore means. An error that it does not know is a bug of ours and stays as it is."""
    match error:
        case ClientError():
            code = error.response.get("Error", {}).get("Code", "")
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return answered(status, code if code.isalnum() else "", what)
        case FlexibleChecksumError():
            return CorruptError(f"{what}: the bytes do not have the digest that they were stored with")
        case NoCredentialsError() | PartialCredentialsError():
            return StoreConfigError(
                "there are no credentials for the store: set EDGEMODEL_STORE_CREDENTIALS, or give the pod an identity"
            )
        case (
            ConnectionError()
            | HTTPClientError()
            | IncompleteReadError()
            | CredentialRetrievalError()
            | ResponseParserError()
        ):
            return TransientError(f"{what}: {type(error).__name__}")
    raise error


_DENIED = {"AccessDenied", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"}
EXPIRED = {"ExpiredToken", "TokenRefreshRequired", "400"}
"""The last is botocore's name for the answer to a HEAD, which has no body to say so."""
_DAMAGED = {"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch", "IncompleteBody"}

_ANOTHER_REGION = {
    "AuthorizationHeaderMalformed",
    "AuthorizationQueryParametersError",
    "IllegalLocationConstraintException",
    "PermanentRedirect",
    "TemporaryRedirect",
}


def answered(status: int, code: str, what: str) -> StoreError:
    """What an S3 server's error means."""
    said = f"{what}: the store answered {status} {code}".rstrip()
    if code == "NoSuchBucket":
        return StoreConfigError(f"{said}: create the bucket, or correct EDGEMODEL_STORE_URI")
    if status in {301, 307} or code in _ANOTHER_REGION:
        return StoreConfigError(f"{said}: set EDGEMODEL_STORE_REGION to the bucket's region")
    if code == "RequestTimeTooSkewed":
        return DeniedError(f"{said}: this machine's clock is wrong")
    if code in _DAMAGED:
        return CorruptError(f"{said}: the bytes changed on their way, or the file changed since it was described")
    if code in EXPIRED:
        return ExpiredError(f"{said}: the store's credentials have expired: renew them")
    if status in {401, 403} or code in _DENIED:
        return DeniedError(f"{said}: check the store's credentials and what they may do")
    if status == 404 or code == "InvalidPart":  # the part of an upload that was dropped meanwhile
        return NotFoundError(said)
    if status == 412:
        return ConflictError(said)
    if status == 501:
        return StoreError(f"{said}: this store does not offer it, and EdgeModel needs it")
    if status >= 500 or status in {408, 409, 429} or code in {"RequestTimeout", "SlowDown"}:
        return TransientError(said)
    return StoreError(said)


def _code(body: bytes) -> str:
    """The code in an S3 server's error document."""
    match = re.search(rb"<Code>([A-Za-z0-9]{1,64})</Code>", body)
    return match[1].decode() if match else ""


def _base64(digest: str) -> str:
    return base64.b64encode(bytes.fromhex(digest.removeprefix("sha256:"))).decode()
