"""Our front beside each engine's own pipeline: tokens a second, and memory over ten thousand requests.

Speed: the demo's model in 4 bits, on MLX in 16, which it is faster with on a CPU. The same prompt is answered by the
engine's own pipeline, called from Python, and through our front over HTTP, streamed: one at a time, and as many at once
as a pod has slots. In turns, each in a process of its own with one thread for the model, so that a client has a core of
its own; with other processes each time. Memory: the tiny model, 32 clients at once. Exits with 1 if a bound does not
hold.
"""

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hack.cluster import cache
from hack.cluster.controlplane import free_ports
from hack.cluster.shell import REPOSITORY, ClusterError, say
from hack.table import packaged_safetensors
from tests.packages import Packages, installed

TINY = REPOSITORY / "tests" / "fixtures" / "tinysawyer-hf"
SPEED_BOUND = 0.95
"""Least share of the engine's own tokens a second that comes through the front."""
MEMORY_BOUND = 1.05
"""Most memory at the end, as a multiple of that after the warm-up."""
WARM_UP = 2000
"""Requests after which memory is expected to grow no more."""
PARALLEL, TOKENS, CLIENTS = 4, 128, 32
ROUNDS = 3
"""Answers of each in a start."""
CONTEXT_LENGTH = 512
PROMPT = "Once upon a time, in a village by the river, there lived an old man who"

ENGINES: dict[str, Callable[[], Packages]] = {
    "onnxruntime-genai": lambda: Packages(installed("onnx", "onnx.txt", "onnx-serve.txt"), {"OMP_NUM_THREADS": "1"}),
    "openvino-genai": lambda: Packages(installed("openvino", "openvino.txt", "openvino-serve.txt")),
    "mlx": lambda: Packages(installed("mlx", "mlx.txt", torch=False)),
}


@dataclass
class Report:
    """What is printed, and whether all bounds hold."""

    failed: list[str] = field(default_factory=list)

    def line(self, engine: str, what: str, figures: str, holds: bool) -> None:
        """Prints a figure."""
        print(f"{engine:18} {what:34} {figures}  {'PASS' if holds else 'FAIL'}", flush=True)
        if not holds:
            self.failed.append(f"{engine}: {what}")


def artifact(engine: str, packages: Packages, source: Path) -> Path:
    """The model in the folder `source` as the engine serves it, kept in the cache."""
    maker = REPOSITORY / "benchmarks" / "front_engine.py"

    def fill(into: Path) -> None:
        say(f"making the artifact of {source.name} for {engine}")
        done = packages.run("-m", "benchmarks.front_engine", "make", engine, source, into, folder=into)
        if done.returncode:
            raise ClusterError(f"no artifact for {engine}: {done.stderr[-2000:]}")

    key = cache.key_of(source, sorted(source.iterdir()), cache.key_of(REPOSITORY, [maker]), str(packages.python))
    return cache.entry(f"front-{engine}", key, fill) / "model"


@contextmanager
def own_pipeline(engine: str, packages: Packages, folder: Path) -> Iterator[Callable[[int], float]]:
    """Tokens a second of the engine's own pipeline that answers so many prompts at once."""
    arguments = [engine, str(folder), str(PARALLEL), str(TOKENS), PROMPT]
    command = [str(packages.python), "-m", "benchmarks.front_engine", "answer", *arguments]
    with subprocess.Popen(
        command, env=packages.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        asking, answering = process.stdin, process.stdout
        assert asking is not None
        assert answering is not None

        def ask(count: int) -> float:
            print(count, file=asking, flush=True)
            line = answering.readline()
            if not line:
                raise ClusterError(f"{engine}'s own pipeline ended with exit status {process.wait()}")
            tokens, seconds = json.loads(line)
            return float(tokens / seconds)

        while answering.readline() not in ("ready\n", ""):
            pass
        yield ask
        asking.close()


@contextmanager
def front(engine: str, packages: Packages, folder: Path) -> Iterator[tuple[int, int]]:
    """Port and process of our front, once it is ready."""
    (port,) = free_ports(1)
    variables: dict[str, str] = {
        "MODEL_DIR": str(folder),
        "CONTEXT_LENGTH": str(CONTEXT_LENGTH),
        "PARALLEL": str(PARALLEL),
        "THREADS": "1",
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "DRAIN_SECONDS": "5",
    }
    command = [str(packages.python), "-m", "edgemodel.serve", engine]
    with subprocess.Popen(command, env=packages.env | variables, stderr=subprocess.DEVNULL) as process:
        try:
            while not _answers(port):
                if process.poll() is not None:
                    raise ClusterError(f"the front on {engine} ended with exit status {process.returncode}")
                time.sleep(0.1)
            yield port, process.pid
        finally:
            process.terminate()


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
            return True
    except (OSError, urllib.error.URLError):
        return False


class Client:
    """A client with a connection that it keeps."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port)

    def complete(self, stream: bool, **asked: Any) -> int:
        """The tokens of an answer, all of which was read. ClusterError if it is no answer."""
        options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        body = json.dumps({"model": "model", **asked, **options})
        self._connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        if response.status != 200:
            raise ClusterError(f"HTTP {response.status}: {response.read()[:200]!r}")
        if not stream:
            return int(json.loads(response.read())["usage"]["completion_tokens"])
        events = [line.removeprefix(b"data: ") for line in response if line.startswith(b"data: ")]
        if events[-1].strip() != b"[DONE]":
            raise ClusterError("the stream ended before its end")
        return int(json.loads(events[-2])["usage"]["completion_tokens"])


def through_the_front(port: int, count: int, pool: ThreadPoolExecutor) -> float:
    """Tokens a second of so many streamed answers at once, from the clients' side: each connects for it."""

    def answer() -> int:
        return Client(port).complete(stream=True, prompt=PROMPT, max_tokens=TOKENS, temperature=0)

    started = time.perf_counter()
    answers = [pool.submit(answer) for _ in range(count)]
    return sum(answer.result() for answer in answers) / (time.perf_counter() - started)


@contextmanager
def side_by_side(
    engine: str, packages: Packages, folder: Path, own_first: bool
) -> Iterator[tuple[Callable[[int], float], int]]:
    """The engine's own pipeline, and the port of our front."""
    with ExitStack() as stack:
        if own_first:
            own = stack.enter_context(own_pipeline(engine, packages, folder))
        port, _ = stack.enter_context(front(engine, packages, folder))
        if not own_first:
            own = stack.enter_context(own_pipeline(engine, packages, folder))
        yield own, port


def compare(engine: str, packages: Packages, starts: int, report: Report) -> None:
    """Speed: each start of the two processes is a measurement, for the memory that falls to a process makes it faster
    or slower for all its life. Once started they answer in turns, after a round that does not count."""
    folder = artifact(engine, packages, packaged_safetensors())
    pairs: dict[int, list[list[tuple[float, float]]]] = {1: [], PARALLEL: []}
    with ThreadPoolExecutor(PARALLEL) as pool:
        for start in range(starts):
            with side_by_side(engine, packages, folder, own_first=start % 2 == 0) as (own, port):
                for count, found in pairs.items():
                    rounds = [(own(count), through_the_front(port, count, pool)) for _ in range(1 + ROUNDS)]
                    found.append(rounds[1:])
    for count, found in pairs.items():
        every = [pair for start in found for pair in start]
        alone, through = (statistics.median(speeds) for speeds in zip(*every, strict=True))
        ratios = [statistics.median(through / alone for alone, through in start) for start in found]
        ratio = statistics.median(ratios)
        figures = f"{through:7.1f} of {alone:7.1f} tokens/s: {ratio:.3f}, {min(ratios):.3f} to {max(ratios):.3f}"
        report.line(
            engine, f"front of engine, {count} at once", f"{figures} (bound {SPEED_BOUND})", ratio >= SPEED_BOUND
        )


def resident(process: int) -> int:
    """Memory that a process and those that it started have, in bytes."""
    status = Path(f"/proc/{process}/status").read_text().splitlines()
    children = [
        child for task in Path(f"/proc/{process}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    own = 1024 * int(next(line.split()[1] for line in status if line.startswith("VmRSS:")))
    return own + sum(resident(int(child)) for child in children)


def endure(engine: str, packages: Packages, requests: int, report: Report) -> None:
    """Memory: many clients at once, with answers of all kinds."""
    folder = artifact(engine, packages, TINY)
    with front(engine, packages, folder) as (port, process), ThreadPoolExecutor(CLIENTS) as pool:
        errors: list[str] = []

        def some(number: int) -> None:
            client = Client(port)  # a connection that waits for the slowest client would be closed meanwhile
            for turn in range(number, 1000, CLIENTS):
                try:
                    client.complete(
                        stream=turn % 2 == 0,
                        prompt="Tom said to the old lady " * (1 + turn % 5),
                        max_tokens=1 + turn % 8,
                        temperature=turn % 3 / 2,
                        seed=turn,
                    )
                except (ClusterError, OSError, http.client.HTTPException, ValueError) as error:
                    errors.append(f"{type(error).__name__}: {error}")

        memory = []
        started = time.perf_counter()
        for done in range(1000, requests + 1, 1000):
            list(pool.map(some, range(CLIENTS)))
            memory.append(resident(process))
            print(f"{engine:18} after {done:6} requests {memory[-1] / 2**20:34.1f} MiB", flush=True)
        seconds = time.perf_counter() - started
    warm, *later = memory[WARM_UP // 1000 - 1 :]
    growth = max(later) / warm
    sent = f"{requests / seconds:.0f} requests/s, {len(errors)} errors {errors[:1] or ''}"
    report.line(engine, f"{requests} requests of {CLIENTS} clients", sent, not errors)
    figures = f"{warm / 2**20:.1f} MiB after {WARM_UP}, {growth:.3f} of it at most later (bound {MEMORY_BOUND})"
    report.line(engine, "memory", figures, growth <= MEMORY_BOUND)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", action="append", choices=list(ENGINES), help="one of them; may be repeated (all)")
    parser.add_argument("--starts", type=int, default=5, help="how often both are started anew (5)")
    parser.add_argument(
        "--requests", type=int, default=10_000, help="for the memory, whole thousands and at least 3000 (10000)"
    )
    asked = parser.parse_args()
    report = Report()
    print(f"machine            {os.cpu_count()} cores")
    for engine in asked.engine or ENGINES:
        packages = ENGINES[engine]()
        compare(engine, packages, asked.starts, report)
        endure(engine, packages, asked.requests, report)
    sys.exit(bool(report.failed))


if __name__ == "__main__":
    main()
