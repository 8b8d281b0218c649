"""A GPU beside the processor, both by llama.cpp out of one of our images: whether each scheme is computed alike, and
what the GPU gains.

For a machine with such a GPU. `--llamacpp` is the folder /opt/llama.cpp of the image `llamacpp-engine`, with what the
GPU's image (`llamacpp-cuda`, `llamacpp-vulkan`) has in its own beside it. Of `--small`, an unquantized GGUF, every
scheme is made; the predictions of each by the processor and by the GPU are compared. `--large` is served as a pod
serves it, by both. Needs nothing but Python's standard library and PyYAML. Exits with 1 if a bound does not hold.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
TEXTS = ROOT / "operator" / "edgemodel" / "pipeline" / "data"
RUNTIME = ROOT / "charts" / "edgemodel" / "files" / "runtimes" / "llamacpp.yaml"
SCHEME = re.compile(r"^ *\d+  or  (\w+) +:(?! alias)", re.MULTILINE)
FIGURE = re.compile(r"^Mean +KLD: +([-\d.]+|nan)", re.MULTILINE)
NO_GPU = "no usable GPU found"
"""What llama-server says where it serves on the processor after all."""
BOUND = 0.005
"""The most that a prediction by the GPU may diverge from the processor's, on average. Both round what meets quantized
weights to 8 bits, in blocks of their own."""
TOKENS = 128
CLIENTS = 8
ON_GPU = ("--n-gpu-layers", "all")
"""As the EdgeRuntime has it."""
ON_PROCESSOR = ("--device", "none")


@dataclass(frozen=True)
class LlamaCpp:
    """Its programs."""

    home: Path

    def run(self, program: str, *arguments: str | Path, folder: Path) -> str:
        """What a program prints."""
        command = [self.home / "bin" / program, *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{program} failed: {(done.stdout + done.stderr)[-2000:]}")
        return done.stdout + done.stderr

    def schemes(self) -> list[str]:
        """All that it makes of a model."""
        done = subprocess.run(
            [self.home / "bin" / "llama-quantize", "--help"], capture_output=True, text=True, check=False
        )
        return SCHEME.findall(done.stdout + done.stderr)


def divergences(llamacpp: LlamaCpp, small: Path, folder: Path) -> Iterator[tuple[str, float]]:
    """Each scheme, and how far the GPU's predictions are from the processor's: mean KL divergence of the next token."""
    threads = ("-t", str(os.cpu_count()))
    calibration = ("-f", TEXTS / "calibration.txt", "-c", "512", "--chunks", "4", *threads)
    llamacpp.run("llama-imatrix", "-m", small, "-o", "imatrix.gguf", *calibration, *ON_PROCESSOR, folder=folder)
    for scheme in llamacpp.schemes():
        llamacpp.run("llama-quantize", "--imatrix", "imatrix.gguf", small, "made.gguf", scheme, folder=folder)
        evaluate = ("-m", "made.gguf", "-c", "512", "-b", "512", "--chunks", "4", *threads)
        base = ("--kl-divergence-base", "logits")
        text = ("-f", TEXTS / "heldout.txt")
        llamacpp.run("llama-perplexity", *evaluate, *text, *base, *ON_PROCESSOR, folder=folder)
        said = llamacpp.run("llama-perplexity", *evaluate, *base, "--kl-divergence", *ON_GPU, folder=folder)
        found = FIGURE.search(said)
        yield scheme, float(found[1]) if found else float("nan")


def arguments(values: dict[str, str]) -> list[str]:
    """Those of a pod that serves text."""
    template = "\n".join(line for line in RUNTIME.read_text().splitlines() if not line.lstrip().startswith("{{"))
    runtime = yaml.safe_load(re.sub(r"{{.*?}}", "127.0.0.1", template))
    filled: list[str] = runtime["serving"]["args"]
    for name, value in values.items():
        filled = [argument.replace(f"$({name})", value) for argument in filled]
    return filled


@dataclass(frozen=True)
class Served:
    """What clients of a server saw."""

    on_gpu: bool
    ready: float
    alone: float
    together: float
    memory: int
    ended: int


def serve(llamacpp: LlamaCpp, model: Path, where: Sequence[str], port: int, log: Path) -> Served:
    """Serves a model as a pod does: whether on a GPU, seconds until it was ready, tokens a second of one client and of
    several at once, bytes of the machine's memory at most, and how it ended when told to."""
    values = {
        "MODEL_FILE": str(model), "MODEL_NAME": "model", "PORT": str(port), "THREADS": str(os.cpu_count()),
        "TOTAL_CONTEXT_LENGTH": str(CLIENTS * 1024), "CONTEXT_LENGTH": "1024", "PARALLEL": str(CLIENTS),
    }  # fmt: skip
    command: list[str | Path] = [llamacpp.home / "bin" / "llama-server", *arguments(values), *where]
    began = time.monotonic()
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as server:
        while not _healthy(port):
            if server.poll() is not None:
                raise SystemExit(f"llama-server ended: {log.read_text()[-2000:]}")
            time.sleep(0.05)
        ready = time.monotonic() - began
        _answer(port)
        alone = statistics.median(_answer(port) for _ in range(5))
        with ThreadPoolExecutor(CLIENTS) as pool:
            began = time.monotonic()
            list(pool.map(lambda _: _answer(port), range(2 * CLIENTS)))
            together = 2 * CLIENTS * TOKENS / (time.monotonic() - began)
        peak = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{server.pid}/status").read_text(), re.MULTILINE)
        server.terminate()
        ended = server.wait(60)
    on_gpu = where == ON_GPU and NO_GPU not in log.read_text()
    return Served(on_gpu, ready, alone, together, 1024 * int(peak[1]) if peak else 0, ended)


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
            return True
    except OSError:
        return False


def _answer(port: int) -> float:
    """Tokens a second of one request, from the client's side."""
    body = {"prompt": "Tom said to", "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
    head = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/completions", json.dumps(body).encode(), head)
    began = time.monotonic()
    with urllib.request.urlopen(request, timeout=300) as answer:
        count: int = json.load(answer)["usage"]["completion_tokens"]
    return count / (time.monotonic() - began)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--llamacpp", type=Path, required=True, help="folder of llama.cpp, with the GPU's backend in bin/"
    )
    parser.add_argument("--small", type=Path, required=True, help="unquantized GGUF whose schemes are compared")
    parser.add_argument("--large", type=Path, required=True, help="GGUF that is served")
    parser.add_argument("--port", type=int, default=18080)
    options = parser.parse_args()
    llamacpp = LlamaCpp(options.llamacpp.resolve())
    bad = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        print(llamacpp.run("llama-bench", "--list-devices", folder=folder))
        for scheme, divergence in divergences(llamacpp, options.small.resolve(), folder):
            holds = divergence <= BOUND
            bad += [] if holds else [scheme]
            print(f"{scheme:<10} diverges by {divergence:.6f} {'PASS' if holds else 'FAIL'}", flush=True)
        for name, where in (("processor", ON_PROCESSOR), ("GPU", ON_GPU)):
            log = folder / f"{name}.log"
            served = serve(llamacpp, options.large.resolve(), where, options.port, log)
            print(
                f"{name:<10} ready in {served.ready:.1f} s, tokens/s: "
                f"{served.alone:.1f} for one client, {served.together:.1f} for {CLIENTS}; "
                f"{served.memory / 2**20:.0f} MiB of the machine's memory; ended with {served.ended}",
                flush=True,
            )
            bad += [] if served.ended == 0 and served.on_gpu == (where == ON_GPU) else [name]
    sys.exit(f"does not hold: {', '.join(bad)}" if bad else 0)


if __name__ == "__main__":
    main()
