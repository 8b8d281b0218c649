"""A stand-in for a model hub and for any web server: it says what a test wants, also badly."""

import hashlib
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

COMMIT = "c0ffee" * 6 + "c0ff"
MODEL = "acme/tiny"


@dataclass
class Hub:
    """What the server has, does and saw."""

    files: dict[str, bytes] = field(default_factory=dict)
    """The files of the one model."""
    card: dict[str, object] = field(default_factory=dict)
    token: str = ""
    """Refuses requests without it, if set."""
    status: dict[str, list[int]] = field(default_factory=dict)
    """Path -> statuses to answer with first."""
    cut: dict[str, list[int]] = field(default_factory=dict)
    """Path -> after how many bytes to break off, first."""
    redirect: dict[str, str] = field(default_factory=dict)
    ranges: bool = True
    etag: str = '"1"'
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    url: str = ""

    def oid(self, path: str) -> dict[str, object]:
        """The entry of the hub's listing."""
        data = self.files[path]
        entry: dict[str, object] = {"type": "file", "path": path, "size": len(data)}
        if path.endswith((".safetensors", ".gguf", ".bin")):
            return entry | {"oid": "1" * 40, "lfs": {"oid": hashlib.sha256(data).hexdigest(), "size": len(data)}}
        return entry | {"oid": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}

    def answer(self, path: str) -> bytes | None:
        """The body for a path."""
        if path.startswith(f"/api/models/{MODEL}/revision/"):
            return json.dumps({"sha": COMMIT, "cardData": self.card}).encode()
        if path.startswith(f"/api/models/{MODEL}/tree/{COMMIT}"):
            return json.dumps([self.oid(file) for file in self.files] + [{"type": "directory", "path": "x"}]).encode()
        name = path.removeprefix(f"/{MODEL}/resolve/{COMMIT}/").removeprefix("/files/")
        return self.files.get(name)

    def count(self, path: str) -> int:
        """How often a path was asked for."""
        return sum(asked == path for asked, _ in self.requests)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        hub = self.hub
        hub.requests.append((path, dict(self.headers)))
        if hub.status.get(path):
            return self._send(hub.status[path].pop(0))
        if path in hub.redirect:
            return self._send(302, headers={"Location": hub.redirect[path]})
        if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self._send(401)
        body = hub.answer(path)
        if body is None:
            return self._send(404)
        asked = self.headers.get("Range", "") if hub.ranges else ""
        headers = {"ETag": hub.etag}
        status, whole = 200, len(body)
        if asked:
            first, last = asked.removeprefix("bytes=").split("-")
            body = body[int(first) : int(last) + 1]
            status = 206
            headers["Content-Range"] = f"bytes {first}-{int(first) + len(body) - 1}/{whole}"
        cut = hub.cut[path].pop(0) if hub.cut.get(path) else len(body)
        self._send(status, body, cut, headers)
        return None

    def _send(
        self, status: int, body: bytes = b"", cut: int | None = None, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:cut])
        if cut is not None and cut < len(body):
            self.wfile.flush()
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Silent."""


@contextmanager
def serve(hub: Hub, certificate: Path | None = None, address: str = "127.0.0.1", port: int = 0) -> Iterator[Hub]:
    """Runs the server, with TLS if it has a certificate."""
    server = ThreadingHTTPServer((address, port), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    hub.url = f"{'https' if certificate else 'http'}://{address}:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
