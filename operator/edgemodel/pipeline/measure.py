"""How fast an engine answers with a model, and what memory its process takes: beside the unquantized model's figures.

Each measurement is a step, `measure_one`: the memory of its process is the engine's.
"""

import json
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from edgemodel.api.artifact import PerformanceReport
from edgemodel.api.base import Task, decimal
from edgemodel.pipeline import texts
from edgemodel.pipeline.children import ChildFailedError
from edgemodel.pipeline.embeddings import held_out_passages
from edgemodel.pipeline.errors import EvaluationFailedError
from edgemodel.pipeline.llamacpp_home import llamacpp_environment, llamacpp_home
from edgemodel.pipeline.progress import Step
from edgemodel.pipeline.steps import run_step
from edgemodel.serve.engine import EmbeddingEngine, EngineSettings, Sampling, TextEngine, embedder_maker, engine_maker

LLAMACPP = "llama.cpp"
"""The one engine that is a program."""
_ROUNDS = 2
"""Each model is measured so often, in turns; what is fastest counts, for a machine only ever makes things slower."""
_PROMPT_TOKENS = 16
_TOKENS = 64
_ANSWERS = 4
_TEXT_TOKENS = 128
_TEXTS = 8
"""Of those that are embedded."""
_SECONDS = 30.0
"""What a measurement may take, the model's loading aside."""
_WEIGHS = "weighs "
_KEEPER = f"""
import os, sys
child = os.fork() or os.execv(sys.argv[1], sys.argv[1:])
_, status, usage = os.wait4(child, 0)
print("{_WEIGHS}%d" % (1024 * usage.ru_maxrss))
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""Runs a program and says what it weighs. A parent of its own for it, and a small one: the kernel counts what a process
has before it becomes the program."""


@dataclass(frozen=True)
class Measurement:
    """What one process came to."""

    tokens_per_second: float
    memory_bytes: int


def measure(
    engine: str,
    version: str,
    model: Path,
    baseline: Path,
    threads: int,
    work: Path,
    step: Step,
    task: Task = "TextGeneration",
) -> PerformanceReport | None:
    """Measures an artifact and the unquantized model, each a folder (for llama.cpp, a file), with the engine of that
    name. None if one of them ends its answers before they can be measured. `EvaluationFailedError` if the engine can't
    answer with one of them."""
    found: dict[Path, list[Measurement]] = {baseline: [], model: []}
    for number in range(_ROUNDS):
        for share, path in enumerate(found):
            found[path].append(_in_a_process(engine, path, threads, task, work))
            step.share((2 * number + share + 1) / (2 * _ROUNDS))
    speed, baseline_speed = (max(one.tokens_per_second for one in found[path]) for path in (model, baseline))
    memory, baseline_memory = (max(one.memory_bytes for one in found[path]) for path in (model, baseline))
    if not speed or not baseline_speed:
        return None
    return PerformanceReport(
        engine=f"{engine} {version}",
        processor=_processor(),
        threads=threads,
        tokens_per_second=decimal(speed, 1),
        baseline_tokens_per_second=decimal(baseline_speed, 1),
        speedup=decimal(speed / baseline_speed, 2),
        memory_bytes=memory,
        baseline_memory_bytes=baseline_memory,
        memory_saved=decimal(1 - memory / baseline_memory, 3),
    )


def _in_a_process(engine: str, path: Path, threads: int, task: Task, work: Path) -> Measurement:
    arguments, environ = (engine, path, str(threads), task), llamacpp_environment()
    try:
        found = run_step(f"{__name__}:measure_one", *arguments, work=work, environ=environ)
    except ChildFailedError:
        raise EvaluationFailedError(f"{engine} could not answer with the model: the Job's log says why") from None
    return Measurement(**json.loads(found))


def _processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())[:256]


def _engine(name: str, path: Path, threads: int) -> Measurement:
    """Answers prompts of the held-out text, one at a time, until there are tokens enough."""
    settings = EngineSettings(path, context_length=_PROMPT_TOKENS + _TOKENS, parallel=1, threads=threads)
    engine = engine_maker(name)(settings)
    speeds = list(_speeds(engine))
    engine.close()
    return Measurement(median(speeds) if speeds else 0.0, peak_memory())


def _speeds(engine: TextEngine) -> Iterator[float]:
    paragraphs = [part for part in texts.held_out_text().decode().split("\n\n") if len(part) > 100][:_ANSWERS]
    started = time.perf_counter()
    for number, paragraph in enumerate(paragraphs):
        # One that is drawn ends less soon than the likeliest.
        prompt = engine.encode(paragraph, special=True)[:_PROMPT_TOKENS]
        engine.add(number, prompt, Sampling(max_tokens=_TOKENS, seed=number))
        began, count, finish = 0.0, 0, None
        while finish is None and time.perf_counter() - started < _SECONDS:
            for output in engine.step():
                began = began or time.perf_counter()
                count += len(output.tokens)
                finish = output.finish
        if count > 1:
            yield (count - 1) / (time.perf_counter() - began)
        if finish is None:  # the time is up
            engine.cancel(number)
            return


def embedder(name: str) -> Callable[[EngineSettings], EmbeddingEngine]:
    """What makes the engine of that name that embeds, llama.cpp among them."""
    if name != LLAMACPP:
        return embedder_maker(name)
    from edgemodel.pipeline.llamacpp_embedder import LlamaCppEmbedder

    return LlamaCppEmbedder


def _embedding(name: str, path: Path, threads: int) -> Measurement:
    """Embeds passages of the held-out text, one at a time."""
    engine = embedder(name)(EngineSettings(path, context_length=_TEXT_TOKENS, parallel=1, threads=threads))
    first, *rest = (engine.encode(text)[:_TEXT_TOKENS] for text in held_out_passages()[: _TEXTS + 1])
    engine.embed([first])
    began = time.perf_counter()
    count = 0
    for text in rest:
        if time.perf_counter() - began < _SECONDS:
            engine.embed([text])
            count += len(text)
    speed = count / (time.perf_counter() - began)
    engine.close()
    return Measurement(speed, peak_memory())


def _llama_bench(path: Path, threads: int) -> Measurement:
    command: list[str | Path] = [llamacpp_home() / "bin" / "llama-bench", "-m", path, "-t", str(threads)]
    command += ["-p", "0", "-n", str(_TOKENS), "-r", "2", "-o", "json"]
    command += ["--load-mode", "none"]  # as it is served
    said, memory = run_and_weigh(command)
    return Measurement(float(json.loads(said)[0]["avg_ts"]), memory)


def run_and_weigh(command: Sequence[str | Path]) -> tuple[str, int]:
    """Runs a program: what it prints, and most memory that was resident, in bytes."""
    keeper = [sys.executable, "-S", "-E", "-c", _KEEPER, *command]
    said = subprocess.run(keeper, check=True, stdout=subprocess.PIPE, text=True).stdout
    printed, _, memory = said.rpartition(_WEIGHS)
    return printed, int(memory)


def peak_memory() -> int:
    """Most memory of this process that was resident, in bytes. `getrusage` will not do: a process begins with what its
    parent had."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def measure_one(name: str, path: str, threads: str, task: Task) -> str:
    """Measures one model. The result is the `Measurement` as JSON."""
    if task == "Embeddings":
        measured = _embedding(name, Path(path), int(threads))
    elif name == LLAMACPP:
        measured = _llama_bench(Path(path), int(threads))
    else:
        measured = _engine(name, Path(path), int(threads))
    return json.dumps(asdict(measured))
