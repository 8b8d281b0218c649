"""One file behind an https URL."""

import re
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

import urllib3

from edgemodel.pipeline.errors import SourceChangedError, SourceUnavailableError, SourceUnsupportedError
from edgemodel.pipeline.sources.base import RemoteReader, SourceFile, safe_path
from edgemodel.pipeline.sources.credentials import Credentials
from edgemodel.pipeline.sources.http import Http

_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


class HttpsReader(RemoteReader):
    """The file at a URL. Servers without ranges are read from the beginning."""

    def __init__(self, url: str, sha256: str | None, credentials: Credentials) -> None:
        self._url = url
        self._sha256 = sha256 or ""
        self._host = urlsplit(url).hostname or ""
        self._http = Http(url, credentials.get("TOKEN"), f"https://{self._host}")

    def files(self) -> list[SourceFile]:
        """The one file."""
        name = safe_path(unquote(urlsplit(self._url).path).rpartition("/")[2] or "model")
        answer = self._http.open(self._url, 0, 1)
        answer.close()
        total = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        size = total[2] if total else answer.headers.get("Content-Length", "")
        if not size.isdecimal():
            raise SourceUnsupportedError(
                f"https://{self._host} does not tell how large the file is: serve it as a file"
            )
        return [SourceFile(name, int(size), self._sha256, _version(answer))]

    def stream(self, file: SourceFile, start: int, size: int) -> Iterator[bytes]:
        """A range of the file, as long as it is still the one that was listed."""
        answer = self._http.open(self._url, start, size)
        if _version(answer) != file.version:
            answer.close()
            raise SourceChangedError(f"the file at https://{self._host} changed while it was read")
        skip = 0
        if answer.status == 200:
            skip = start
        elif not (found := _RANGE.fullmatch(answer.headers.get("Content-Range", ""))) or int(found[1]) != start:
            answer.close()
            raise SourceUnavailableError(f"https://{self._host} sends another range than it was asked for")
        for piece in self._http.pieces(answer, skip + size):
            rest = piece[skip:]
            skip = max(0, skip - len(piece))
            if rest:
                yield rest


def _version(answer: urllib3.BaseHTTPResponse) -> str:
    """What the server tells the file's versions apart by."""
    return answer.headers.get("ETag", "") + answer.headers.get("Last-Modified", "")
