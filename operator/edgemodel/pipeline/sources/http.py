"""HTTP as a stranger's URL calls for it.

Addresses are judged before a connection is made, and again on the connection itself before a byte is sent, so that
neither DNS nor a redirect nor an odd spelling leads to one that is forbidden. A token goes to the host that it is for
and to no other.
"""

import ipaddress
import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, LocationParseError

from edgemodel.pipeline.errors import (
    AddressRefusedError,
    MalformedError,
    PipelineError,
    SourceError,
    SourceNotFoundError,
    SourceUnauthorizedError,
    SourceUnavailableError,
)
from edgemodel.pipeline.sources.base import PAUSES, WORKERS, pause

MAX_REDIRECTS = 5
MAX_DOCUMENT = 64 << 20
_BLOCK = 1 << 18
_METADATA = {ipaddress.ip_address("fd00:ec2::254"), ipaddress.ip_address("100.100.100.200")}
"""Metadata services of clouds whose addresses are not link-local."""


def check_address(host: str) -> None:
    """Refuses an address where clouds answer with credentials."""
    address = ipaddress.ip_address(host.partition("%")[0])
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_link_local or address in _METADATA:
        raise AddressRefusedError(f"{address} is a link-local or metadata address: no model is read from there")


def check_host(host: str) -> None:
    """Refuses a host that has such an address."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        raise SourceUnavailableError(
            f"the host {host!r} has no address: correct the URI, or the cluster's DNS"
        ) from None
    for *_, place in found:
        check_address(str(place[0]))


class _GuardedHTTP(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        check_host(self._dns_host)
        return _guarded(super()._new_conn())


class _GuardedHTTPS(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        check_host(self._dns_host)
        return _guarded(super()._new_conn())


def _guarded(connection: socket.socket) -> socket.socket:
    try:
        check_address(connection.getpeername()[0])
    except AddressRefusedError:
        connection.close()
        raise
    return connection


class _HTTPPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _GuardedHTTP


class _HTTPSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _GuardedHTTPS


class Http:
    """Reads from one origin, with a bearer token for it. `plain` allows http for this origin alone."""

    def __init__(self, origin: str, token: str | None, what: str, plain: bool = False) -> None:
        self._origin = _origin(origin)
        self._token = token
        self._what = what
        self._plain = plain
        self._pool = urllib3.PoolManager(
            maxsize=2 * WORKERS, retries=False, timeout=urllib3.Timeout(connect=10, read=60)
        )
        self._pool.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
        self._check(origin)

    def document(self, url: str) -> tuple[Any, urllib3.HTTPHeaderDict]:
        """A JSON document, asked for again where that can help, and the answer's headers."""
        for failures in range(len(PAUSES) + 1):
            try:
                with self.open(url) as answer:
                    data = answer.read(MAX_DOCUMENT + 1)
                break
            except (HTTPError, OSError):
                problem: PipelineError = SourceUnavailableError(f"{self._what}: the connection broke off")
            except SourceUnavailableError as error:
                problem = error
            if failures == len(PAUSES):
                raise problem
            pause(failures)
        if len(data) > MAX_DOCUMENT:
            raise MalformedError(f"{self._what} answers with more than {MAX_DOCUMENT} bytes: is it a model hub?")
        try:
            return json.loads(data), answer.headers
        except (ValueError, RecursionError):
            raise MalformedError(f"{self._what} does not answer with JSON: is it a model hub?") from None

    def pieces(self, answer: urllib3.BaseHTTPResponse, size: int) -> Iterator[bytes]:
        """At most `size` bytes of a body, which may end early."""
        left = size
        try:
            while left and (block := answer.read(min(left, _BLOCK))):
                left -= len(block)
                yield block
        except (HTTPError, OSError):
            return
        finally:
            if answer.length_remaining == 0:
                answer.release_conn()
            else:
                answer.close()

    def open(self, url: str, start: int = 0, size: int | None = None) -> urllib3.BaseHTTPResponse:
        """The answer to a request for a range, its body still to be read, after redirects."""
        for _ in range(MAX_REDIRECTS + 1):
            self._check(url)
            headers = {"User-Agent": "edgemodel", "Accept-Encoding": "identity"}
            if size is not None:
                headers["Range"] = f"bytes={start}-{start + size - 1}"
            if self._token and _origin(url) == self._origin:
                headers["Authorization"] = f"Bearer {self._token}"
            try:
                answer = self._pool.request("GET", url, headers=headers, redirect=False, preload_content=False)
            except LocationParseError:
                raise SourceNotFoundError(f"{self._what} is no URL: correct spec.source.uri") from None
            except (HTTPError, OSError) as error:
                raise SourceUnavailableError(f"{self._what} cannot be reached: {type(error).__name__}") from None
            if answer.status not in (301, 302, 303, 307, 308):
                return self._judge(answer)
            answer.close()
            url = self._next(url, answer.headers.get("Location", ""))
        raise SourceNotFoundError(f"{self._what} redirects more than {MAX_REDIRECTS} times")

    def _next(self, url: str, location: str) -> str:
        try:
            return urljoin(url, location)
        except ValueError:
            raise SourceNotFoundError(f"{self._what} redirects to what is no URL") from None

    def _check(self, url: str) -> None:
        origin = _origin(url)
        if origin[0] != "https" and not (self._plain and origin == self._origin):
            raise AddressRefusedError(f"{self._what} leads to a URL that is not https: use one that is")

    def _judge(self, answer: urllib3.BaseHTTPResponse) -> urllib3.BaseHTTPResponse:
        if answer.status in (200, 206):
            return answer
        answer.close()
        raise refusal(answer.status, self._what, "token" if self._token else "")


def refusal(status: int, what: str, credentials: str) -> SourceError:
    """What an answer other than success means. `credentials` names those that were sent, if any were."""
    said = f"{what} answers {status}"
    if status in (401, 403):
        advice = (
            f"its {credentials} is wrong or may not read this" if credentials else "it is private or does not exist"
        )
        return SourceUnauthorizedError(f"{said}: {advice}; name a Secret with access in spec.source.secretRef")
    if status in (404, 410):
        return SourceNotFoundError(f"{said}: correct spec.source.uri or spec.source.revision")
    if status >= 500 or status in (408, 425, 429):
        return SourceUnavailableError(said)
    return SourceNotFoundError(f"{said}, which makes no sense for a model: correct spec.source.uri")


def _origin(url: str) -> tuple[str, str, int | None]:
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        raise SourceNotFoundError(f"{url[:80]!r} is no URL: correct spec.source.uri") from None
