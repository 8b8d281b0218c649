"""Embeds the held-out passages with an engine: `python -m edgemodel.pipeline.embed ENGINE MODEL CONTEXT THREADS TARGET`
writes an array to the file TARGET, and prints how many tokens the passages have.

A process of its own: a Job must be able to end it, and some engines never give back what they take.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgemodel.api.artifact import QualityReport
from edgemodel.core.sizing import BATCH_TOKENS
from edgemodel.pipeline.children import ChildFailedError, run_child
from edgemodel.pipeline.embeddings import compare_embeddings, held_out_passages
from edgemodel.pipeline.errors import EvaluationFailedError
from edgemodel.pipeline.llamacpp_home import llamacpp_environment
from edgemodel.pipeline.measure import embedder
from edgemodel.pipeline.progress import Step
from edgemodel.serve.engine import EngineSettings


def evaluate_embeddings(
    engine: str, model: Path, baseline: Path, context_length: int, threads: int, work: Path, step: Step
) -> QualityReport:
    """Judges an artifact beside the unquantized model, each a folder (for llama.cpp, a file), with the engine of that
    name. `context_length` is the model's, or 0 if it is not known."""
    context = str(min(context_length or BATCH_TOKENS, BATCH_TOKENS))
    found = []
    for number, path in enumerate((baseline, model)):
        target = work / f"embeddings-{number}.npy"
        command: list[str | Path] = [
            sys.executable,
            "-m",
            "edgemodel.pipeline.embed",
            engine,
            path,
            context,
            str(threads),
            target,
        ]
        try:
            tokens = run_child(command, work, lambda _: None, **llamacpp_environment()).splitlines()[-1]
        except ChildFailedError as error:
            raise EvaluationFailedError(f"{engine} could not embed with the model: {error.last_words}") from None
        found.append(np.load(target))
        step.share((number + 1) / 2)
    return compare_embeddings(found[0], found[1], int(tokens))


def main(arguments: Sequence[str]) -> None:
    """Embeds as the command line says."""
    engine, model, context, threads, target = arguments
    settings = EngineSettings(Path(model), context_length=int(context), parallel=1, threads=int(threads))
    made = embedder(engine)(settings)
    texts = [made.encode(passage)[: settings.context_length] for passage in held_out_passages()]
    np.save(target, np.array([made.embed([text])[0] for text in texts], np.float32))
    made.close()
    print(sum(map(len, texts)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
