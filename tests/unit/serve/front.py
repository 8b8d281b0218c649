"""A front on a stand-in for an engine, reached over HTTP. What it does not prove: that any engine is like this one."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from openai import OpenAI

from edgemodel.serve.app import Front
from edgemodel.serve.batcher import Batcher
from edgemodel.serve.engine import Finish, NoChatTemplateError, Output, Sampling, Token
from edgemodel.serve.server import GracefulServer
from hack.cluster.controlplane import free_ports


@dataclass
class StandIn:
    """Says the same to every prompt. Its tokens are the bytes of UTF-8."""

    text: str = "Grüße aus München 🥨, und noch ein paar Worte."
    pace: float = 0.0
    """Seconds that a step takes."""
    chats: bool = True
    fails_at: int = 1 << 30
    """The step that fails."""
    steps: int = 0
    most_at_once: int = 0
    cancelled: list[int] = field(default_factory=list)
    closed: bool = False
    asked: list[Sampling] = field(default_factory=list)
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
class Running:
    """A front that serves."""

    port: int
    engine: StandIn
    front: Front
    server: GracefulServer
    batcher: Batcher

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def metric(self, name: str, **labels: str) -> float:
        return self.front.metrics.registry.get_sample_value(name, labels) or 0.0

    def wait(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not holds():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.01)


@contextmanager
def serving(engine: StandIn, parallel: int = 4, waiting: int = 64, context_length: int = 512) -> Iterator[Running]:
    """A front on this engine until the block ends."""
    (port,) = free_ports(1)
    batcher = Batcher(lambda: engine, parallel, waiting)
    front = Front("tiny", context_length, batcher, lambda: setattr(server, "should_exit", True))
    server = GracefulServer(front.app, "127.0.0.1", port, drain_seconds=10)
    thread = threading.Thread(target=partial(asyncio.run, server.serve()))
    thread.start()
    running = Running(port, engine, front, server, batcher)
    try:
        running.wait(lambda: server.started)
        yield running
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
