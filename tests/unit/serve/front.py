"""Fronts on stand-ins for engines, reached over HTTP. What they do not prove: that any engine is like these."""

import asyncio
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

from openai import OpenAI

from edgemodel.serve.app import Front
from edgemodel.serve.batcher import Batcher
from edgemodel.serve.embedding_batcher import EmbeddingBatcher
from edgemodel.serve.embedding_front import EmbeddingFront
from edgemodel.serve.engine import Finish, NoChatTemplateError, Output, Sampling, Token
from edgemodel.serve.engine_thread import EngineThread
from edgemodel.serve.server import GracefulServer
from edgemodel.serve.text_front import TextFront
from hack.cluster.controlplane import free_ports


@dataclass
class StandIn:
    """Says the same to every prompt. Its tokens are the bytes of UTF-8."""

    text: str = "Grüße aus München 🥨, und noch ein paar Worte."
    pace: float = 0.0
    """Seconds that a step takes."""
    gate: threading.Event | None = None
    """What each step waits for, if there is one."""
    chats: bool = True
    fails_at: int = 1 << 30
    """The step that fails."""
    steps: int = 0
    most_at_once: int = 0
    cancelled: list[int] = field(default_factory=list)
    closed: bool = False
    asked: list[Sampling] = field(default_factory=list)
    vocabulary: int = 256
    _rest: dict[int, tuple[bytes, int]] = field(default_factory=dict)

    def chat_prompt(self, messages: Sequence[Mapping[str, str]]) -> str:
        if not self.chats:
            raise NoChatTemplateError("the model has no chat template")
        if messages[0]["role"] not in ("user", "system"):
            raise ValueError(f"no role {messages[0]['role']}")
        return "".join(f"<{message['role']}>{message['content']}" for message in messages)

    def encode(self, text: str, special: bool) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode(errors="replace")

    def add(self, request: int, prompt: Sequence[int], sampling: Sampling) -> None:
        self.asked.append(sampling)
        self._rest[request] = (self.text.encode(), sampling.max_tokens)
        self.most_at_once = max(self.most_at_once, len(self._rest))

    def step(self) -> list[Output]:
        assert self._rest, "turned with nothing to do"
        self.steps += 1
        if self.steps >= self.fails_at:
            raise RuntimeError("out of order")
        time.sleep(self.pace)
        if self.gate:
            self.gate.wait()
        outputs = []
        for request, (rest, left) in list(self._rest.items()):
            token = Token(rest[0], -0.5 if self.asked[-1].logprobs else None)
            self._rest[request] = (rest[1:], left - 1)
            finish: Finish | None = "stop" if not rest[1:] else "length" if left == 1 else None
            if finish:
                del self._rest[request]
            outputs.append(Output(request, (token,), finish))
        return outputs

    def cancel(self, request: int) -> None:
        self.cancelled.append(request)
        del self._rest[request]

    def close(self) -> None:
        self.closed = True


@dataclass
class Embedder:
    """A stand-in that embeds a text as the number of its tokens, the first, and the last."""

    pace: float = 0.0
    """Seconds that a batch takes."""
    gate: threading.Event | None = None
    """What each batch waits for, if there is one."""
    fails_at: int = 1 << 30
    """The batch that fails."""
    batches: list[list[int]] = field(default_factory=list)
    """The lengths of the texts of each."""
    closed: bool = False
    vocabulary: int = 256

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def embed(self, texts: Sequence[Sequence[int]]) -> list[list[float]]:
        assert texts, "turned with nothing to do"
        self.batches.append([len(text) for text in texts])
        if len(self.batches) >= self.fails_at:
            raise RuntimeError("out of order")
        time.sleep(self.pace)
        if self.gate:
            self.gate.wait()
        return [[len(text), text[0] / 256, text[-1] / 256] for text in texts]

    def close(self) -> None:
        self.closed = True


EngineT = TypeVar("EngineT", StandIn, Embedder)


@dataclass
class Running(Generic[EngineT]):
    """A front that serves."""

    port: int
    engine: EngineT
    front: Front[Any]
    server: GracefulServer
    batcher: EngineThread[Any, Any]
    clients: ExitStack = field(default_factory=ExitStack)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> OpenAI:
        return self.clients.enter_context(OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0))

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        """Status and answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def begin(self, path: str, body: Any) -> socket.socket:
        """The connection of a client that has asked, and has not read an answer."""
        text = json.dumps(body)
        client = socket.create_connection(("127.0.0.1", self.port))
        client.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode())
        return client

    def metric(self, name: str, **labels: str) -> float:
        return self.front.metrics.registry.get_sample_value(name, labels) or 0.0

    def release(self, requests: int) -> None:
        """Opens the engine's gate once so many requests are here, so that none comes after the others are done."""
        assert self.engine.gate
        try:
            self.wait(lambda: self.batcher.running + self.batcher.waiting == requests)
        finally:
            self.engine.gate.set()

    def wait(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.01)


@contextmanager
def serving(
    engine: EngineT, parallel: int = 4, waiting: int = 64, context_length: int = 512
) -> Iterator[Running[EngineT]]:
    """A front on this engine until the block ends."""
    (port,) = free_ports(1)
    front: Front[Any]
    batcher: EngineThread[Any, Any]

    def stop() -> None:
        server.should_exit = True

    if isinstance(engine, Embedder):
        batcher = EmbeddingBatcher(lambda: engine, parallel, waiting)
        front = EmbeddingFront("tiny", context_length, batcher, stop)
    else:
        batcher = Batcher(lambda: engine, parallel, waiting)
        front = TextFront("tiny", context_length, batcher, stop)
    server: GracefulServer = GracefulServer(front.app, "127.0.0.1", port, drain_seconds=10)
    thread = threading.Thread(target=partial(asyncio.run, server.serve()))
    thread.start()
    running = Running(port, engine, front, server, batcher)
    try:
        running.wait(lambda: server.started)
        with running.clients:
            yield running
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()
