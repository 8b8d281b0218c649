"""A proxy in front of an S3 server that does what networks and servers do on bad days.

A test gives it a function that looks at each request and answers with a fault or None. It keeps a log of the requests.
"""

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Request:
    """A request as it came."""

    method: str
    path: str
    query: dict[str, list[str]]
    range: str
    """The Range header, or nothing."""

    @property
    def writes(self) -> bool:
        """Whether it changes what is stored."""
        return self.method in {"PUT", "POST", "DELETE"}


@dataclass(frozen=True)
class Status:
    """An answer of the proxy's own; the server does not see the request."""

    status: int
    code: str = "InternalError"
    """What S3's error document calls it."""


@dataclass(frozen=True)
class Lost:
    """The connection is cut without an answer."""

    reaches_server: bool


@dataclass(frozen=True)
class Cut:
    """The connection is cut after so many bytes of the body."""

    after: int


@dataclass(frozen=True)
class Flip:
    """One bit of the body is wrong, at this byte."""

    at: int


@dataclass(frozen=True)
class Slow:
    """The body comes in pieces, with a pause before each."""

    pieces: int
    seconds: float


@dataclass(frozen=True)
class Silent:
    """Nothing comes for so long; then the connection is cut."""

    seconds: float


@dataclass(frozen=True)
class Damage:
    """One bit of the last byte that goes to the server is wrong."""


@dataclass(frozen=True)
class Late:
    """The answer comes at once, and the server sees the request so much later."""

    answer: bytes
    seconds: float


Fault = Status | Lost | Cut | Flip | Slow | Silent | Damage | Late
Judge = Callable[[Request], Fault | None]


class Proxy:
    """Where it listens, what it saw, and what it does."""

    def __init__(self) -> None:
        self.url = ""
        self.judge: Judge = lambda _: None
        self.seen: list[Request] = []
        self._news = threading.Condition()

    def see(self, request: Request) -> Fault | None:
        """Called with each request, one at a time."""
        with self._news:
            self.seen.append(request)
            self._news.notify_all()
            return self.judge(request)

    def wait_for(self, matches: Callable[[Request], bool]) -> None:
        """Returns when such a request has come."""
        with self._news:
            assert self._news.wait_for(lambda: any(map(matches, self.seen)), timeout=60)


def first(count: int, fault: Fault, matches: Callable[[Request], bool]) -> Judge:
    """The fault for the first `count` requests that match."""
    left = count

    def judge(request: Request) -> Fault | None:
        nonlocal left
        if not matches(request) or left == 0:
            return None
        left -= 1
        return fault

    return judge


def reads_blob(request: Request) -> bool:
    """Whether it reads a range of a blob."""
    return request.method == "GET" and "/blobs/" in request.path


@contextmanager
def run_proxy(upstream: str) -> Iterator[Proxy]:
    """A proxy to `upstream`, with no fault at first."""
    proxy = Proxy()
    host = urlsplit(upstream).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            url = urlsplit(self.path)
            query = parse_qs(url.query, keep_blank_values=True)
            match proxy.see(Request(self.command, url.path, query, self.headers.get("Range", ""))):
                case Status(status, code):
                    self._send(status, [], f"<Error><Code>{code}</Code></Error>".encode())
                case Lost(reaches_server):
                    if reaches_server:
                        self._ask(body)
                    self.close_connection = True
                case Cut(after):
                    status, headers, answer = self._ask(body)
                    self._send(status, headers, answer[:after])
                    self.close_connection = True
                case Flip(at):
                    status, headers, answer = self._ask(body)
                    self._send(status, headers, answer[:at] + bytes([answer[at] ^ 1]) + answer[at + 1 :])
                case Slow(pieces, seconds):
                    status, headers, answer = self._ask(body)
                    self._send(status, headers, answer, pieces, seconds)
                case Silent(seconds):
                    time.sleep(seconds)
                    self.close_connection = True
                case Damage():
                    self._send(*self._ask(body[:-1] + bytes([body[-1] ^ 1])))
                case Late(answer, seconds):
                    threading.Timer(seconds, self._ask, [body]).start()
                    self._send(200, [], answer)
                    self.close_connection = True  # what is left of this handler is the late request
                case None:
                    self._send(*self._ask(body))

        do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

        def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            connection = http.client.HTTPConnection(host, timeout=60)
            try:
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() not in {"expect", "connection"}:
                        connection.putheader(name, value)
                connection.endheaders(body)
                answer = connection.getresponse()
                return answer.status, answer.getheaders(), answer.read()
            finally:
                connection.close()

        def _send(
            self, status: int, headers: list[tuple[str, str]], body: bytes, pieces: int = 1, seconds: float = 0
        ) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in {"connection", "transfer-encoding"}:
                    self.send_header(name, value)
            if not any(name.lower() == "content-length" for name, _ in headers) and status != 204:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            size = -(-len(body) // pieces)
            try:
                for start in range(0, len(body), max(size, 1)):
                    time.sleep(seconds)
                    self.wfile.write(body[start : start + size])
            except ConnectionError:
                self.close_connection = True

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that was killed is what these tests are about."""

    server = Server(("127.0.0.1", 0), Handler)
    proxy.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
