"""A model hub, by its HTTP API: https://huggingface.co or a mirror of it."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urljoin

from edgemodel.pipeline.errors import MalformedError, SourceNotFoundError, SourceUnavailableError
from edgemodel.pipeline.sources.base import RemoteReader, SourceFile, below, safe_path
from edgemodel.pipeline.sources.credentials import Credentials
from edgemodel.pipeline.sources.http import Http

HUB = "https://huggingface.co"
MAX_PAGES = 100
_NEXT = re.compile(r'<([^>]+)>;\s*rel="next"')


class HubReader(RemoteReader):
    """`OWNER/NAME`, `OWNER/NAME/FOLDER` or `OWNER/NAME/FILE` at a revision."""

    def __init__(self, path: str, revision: str | None, credentials: Credentials, endpoint: str) -> None:
        owner, _, rest = path.strip("/").partition("/")
        name, _, self._inside = rest.partition("/")
        if not name:
            raise SourceNotFoundError("a model of the hub is named hf://OWNER/NAME: correct spec.source.uri")
        self._endpoint = (endpoint or HUB).rstrip("/")
        self._model = f"{quote(owner)}/{quote(name)}"
        self._http = Http(
            self._endpoint, credentials.get("HF_TOKEN"), f"the hub's model {owner}/{name}", plain=bool(endpoint)
        )
        info, _ = self._http.document(
            f"{self._endpoint}/api/models/{self._model}/revision/{quote(revision or 'main', safe='')}"
        )
        match info:
            case {"sha": str(commit)} if re.fullmatch(r"[0-9a-f]{40,64}", commit):
                self.revision = commit
            case _:
                raise MalformedError("the hub names no commit for the model: is HF_ENDPOINT a model hub?")
        self.licence = _licence(info.get("cardData"))
        self._prefix = ""

    def files(self) -> list[SourceFile]:
        """All files of the commit, with the digests that the hub keeps."""
        url: str | None = f"{self._endpoint}/api/models/{self._model}/tree/{self.revision}?recursive=true"
        found: list[SourceFile] = []
        for _ in range(MAX_PAGES):
            if url is None:
                break
            page, headers = self._http.document(url)
            if not isinstance(page, list):
                raise MalformedError("the hub lists no files for the model: is HF_ENDPOINT a model hub?")
            found += [_file(entry) for entry in page if isinstance(entry, dict) and entry.get("type") == "file"]
            more = _NEXT.search(headers.get("Link", ""))
            url = urljoin(url, more[1]) if more else None
        self._prefix, files = below(found, self._inside.strip("/"))
        return files

    def stream(self, file: SourceFile, start: int, size: int) -> Iterator[bytes]:
        """A range of a file of the commit."""
        path = quote(self._prefix + file.path)
        answer = self._http.open(f"{self._endpoint}/{self._model}/resolve/{self.revision}/{path}", start, size)
        if answer.status == 200 and start:
            answer.close()
            raise SourceUnavailableError(f"the hub sends {file.path} from its beginning: ranges are needed")
        return self._http.pieces(answer, size)


def _file(entry: dict[str, Any]) -> SourceFile:
    match entry:
        case {"path": str(path), "size": int(size), "lfs": {"oid": str(oid)}} if re.fullmatch("[0-9a-f]{64}", oid):
            return SourceFile(safe_path(path), size, f"sha256:{oid}")
        case {"path": str(path), "size": int(size), "oid": str(oid)} if re.fullmatch("[0-9a-f]{40}", oid):
            return SourceFile(safe_path(path), size, f"git:{oid}")
    raise MalformedError("the hub lists a file without size or digest: is HF_ENDPOINT a model hub?")


def _licence(card: object) -> str:
    """`license`, or `license_name` where that says only `other`."""
    if not isinstance(card, dict):
        return ""
    named = card.get("license_name") if card.get("license") == "other" else None
    licence = named or card.get("license")
    return licence if isinstance(licence, str) else ""
