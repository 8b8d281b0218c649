"""Judges an artifact that embeds by what its engine makes of the held-out passages, in the step `embed`."""

from pathlib import Path

import numpy as np

from edgemodel.api.artifact import QualityReport
from edgemodel.core.sizing import BATCH_TOKENS
from edgemodel.pipeline.children import ChildFailedError
from edgemodel.pipeline.embeddings import compare_embeddings, held_out_passages
from edgemodel.pipeline.errors import EvaluationFailedError
from edgemodel.pipeline.llamacpp_home import llamacpp_environment
from edgemodel.pipeline.measure import embedder
from edgemodel.pipeline.progress import Step
from edgemodel.pipeline.steps import run_step
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
        arguments = (engine, path, context, str(threads), target)
        environ = llamacpp_environment()
        try:
            tokens = run_step(f"{__name__}:embed", *arguments, work=work, environ=environ)
        except ChildFailedError as error:
            raise EvaluationFailedError(f"{engine} could not embed with the model: {error.last_words}") from None
        found.append(np.load(target))
        step.share((number + 1) / 2)
    return compare_embeddings(found[0], found[1], int(tokens))


def embed(engine: str, model: str, context: str, threads: str, target: str) -> str:
    """Writes the embeddings of the held-out passages to the file `target`. The result is how many tokens they have."""
    settings = EngineSettings(Path(model), context_length=int(context), parallel=1, threads=int(threads))
    made = embedder(engine)(settings)
    texts = [made.encode(passage)[: settings.context_length] for passage in held_out_passages()]
    np.save(target, np.array([made.embed([text])[0] for text in texts], np.float32))
    made.close()
    return str(sum(map(len, texts)))
