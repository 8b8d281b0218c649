"""How fast an engine answers with a model, and what memory its process takes: beside the unquantized model's figures.

`python -m edgemodel.pipeline.measure ENGINE MODEL THREADS` is one measurement, in a process of its own so that the
memory is the engine's. It prints a JSON object.
"""

import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from edgemodel.api.artifact import PerformanceReport
from edgemodel.api.base import decimal
from edgemodel.pipeline import texts
from edgemodel.pipeline.children import ChildFailedError, run_child
from edgemodel.pipeline.errors import EvaluationFailedError
from edgemodel.pipeline.llamacpp_home import llamacpp_home
from edgemodel.pipeline.progress import Step
from edgemodel.serve.engine import EngineSettings, Sampling, TextEngine, engine_maker

LLAMACPP = "llama.cpp"
"""The one engine that is a program."""
_ROUNDS = 2
"""Each model is measured so often, in turns; what is fastest counts, for a machine only ever makes things slower."""
_PROMPT_TOKENS = 16
_TOKENS = 64
_ANSWERS = 4
_SECONDS = 30.0
"""What a measurement may take, the model's loading aside."""


@dataclass(frozen=True)
class Measurement:
    """What one process came to."""

    tokens_per_second: float
    memory_bytes: int


def measure(
    engine: str, version: str, model: Path, baseline: Path, threads: int, work: Path, step: Step
) -> PerformanceReport | None:
    """Measures an artifact and the unquantized model, each a folder (for llama.cpp, a file), with the engine of that
    name. None if one of them ends its answers before they can be measured. `EvaluationFailedError` if the engine can't
    answer with one of them."""
    found: dict[Path, list[Measurement]] = {baseline: [], model: []}
    for number in range(_ROUNDS):
        for share, path in enumerate(found):
            found[path].append(_in_a_process(engine, path, threads, work))
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


def _in_a_process(engine: str, path: Path, threads: int, work: Path) -> Measurement:
    command = [sys.executable, "-m", "edgemodel.pipeline.measure", engine, str(path), str(threads)]
    try:
        said = run_child(command, work, lambda _: None, LLAMACPP_HOME=str(llamacpp_home()))
        return Measurement(**json.loads(said.splitlines()[-1]))
    except (ChildFailedError, ValueError, TypeError, IndexError):
        raise EvaluationFailedError(f"{engine} could not answer with the model: the Job's log says why") from None


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
    return Measurement(median(speeds) if speeds else 0.0, _peak(resource.RUSAGE_SELF))


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


def _llama_bench(path: Path, threads: int) -> Measurement:
    command: list[str | Path] = [llamacpp_home() / "bin" / "llama-bench", "-m", path, "-t", str(threads)]
    command += ["-p", "0", "-n", str(_TOKENS), "-r", "2", "-o", "json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return Measurement(float(json.loads(done.stdout)[0]["avg_ts"]), _peak(resource.RUSAGE_CHILDREN))


def _peak(whose: int) -> int:
    """Most memory that was resident, in bytes: the kernel counts in KiB, macOS in bytes."""
    most = resource.getrusage(whose).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def main(arguments: Sequence[str]) -> None:
    """Measures, and prints."""
    name, path, threads = arguments
    measured = _llama_bench(Path(path), int(threads)) if name == LLAMACPP else _engine(name, Path(path), int(threads))
    print(json.dumps(asdict(measured)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
