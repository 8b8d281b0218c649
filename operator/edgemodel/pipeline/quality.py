"""What a quantized model is worth: its predictions beside the unquantized model's, on the same held-out text.

Measured as llama.cpp's `llama-perplexity --kl-divergence` does, so that the figures of all toolchains mean the same:
the text in windows, of each the second half scored, where the model has seen enough to go by.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgemodel.api.artifact import QualityReport
from edgemodel.api.base import decimal
from edgemodel.core.sizing import BATCH_TOKENS, HELD_OUT_TOKENS
from edgemodel.pipeline.errors import EvaluationFailedError

Predict = Callable[[Sequence[int]], NDArray[np.float32]]
"""A model: token ids of a window -> its logits at each of them, (window, vocabulary)."""
Report = Callable[[float], None]
"""Hears which share is done, from 0 to 1."""


def windows(
    tokens: Sequence[int], context_length: int, bos: int | None, at_most: int = HELD_OUT_TOKENS
) -> list[list[int]]:
    """A text in windows of equal length, each beginning with `bos` if the model wants it; `at_most` tokens in all."""
    size = min(BATCH_TOKENS, context_length or BATCH_TOKENS, len(tokens))
    most = min(len(tokens), at_most)
    found = [list(tokens[start : start + size]) for start in range(0, most - size + 1, size)] if size > 3 else []
    if bos is not None:
        found = [[bos, *window[1:]] for window in found]
    return found


def remember(predict: Predict, texts: Sequence[Sequence[int]], path: Path, report: Report) -> float:
    """Writes the unquantized model's log-probabilities of the scored positions, two bytes each. Its perplexity."""
    losses: list[float] = []
    with path.open("wb") as stream:
        for number, window in enumerate(texts, 1):
            for found, following in _scored(predict, window):
                losses.append(-found[following])
                stream.write(found.astype(np.float16).tobytes())
            report(number / len(texts))
    return _perplexity(losses)


def compare(
    predict: Predict, texts: Sequence[Sequence[int]], path: Path, baseline: float, text_digest: str, report: Report
) -> QualityReport:
    """The quantized model beside what `remember` wrote: `baseline` is the perplexity that it returned."""
    losses: list[float] = []
    divergences: list[float] = []
    agreed = 0
    with path.open("rb") as stream:
        for number, window in enumerate(texts, 1):
            for found, following in _scored(predict, window):
                expected = np.frombuffer(stream.read(2 * found.size), np.float16).astype(np.float64)
                losses.append(-found[following])
                divergences.append(float((np.exp(expected) * (expected - found)).sum()))
                agreed += int(expected.argmax() == found.argmax())
            report(number / len(texts))
    perplexity = _perplexity(losses)
    return QualityReport(
        perplexity=decimal(perplexity),
        baseline_perplexity=decimal(baseline),
        accuracy=decimal(baseline / perplexity),
        kl_divergence=decimal(float(np.mean(divergences)), 6),
        top_token_agreement=decimal(agreed / len(losses)),
        tokens=len(losses),
        text_digest=text_digest,
    )


def _scored(predict: Predict, window: Sequence[int]) -> Iterator[tuple[NDArray[np.float64], int]]:
    """The log-probabilities at each scored position, and the token that follows. One position at a time: a large
    vocabulary's logits of a window are enough to hold."""
    first = len(window) // 2
    logits = predict(window)
    for position in range(first, len(window) - 1):
        yield _log_softmax(logits[position]), window[position + 1]


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def _perplexity(losses: Sequence[float]) -> float:
    perplexity = float(np.exp(np.mean(losses))) if losses else float("nan")
    if not perplexity < 1e12:
        raise EvaluationFailedError(
            "the model's predictions make no sense on the held-out text: use a scheme of more bits, or another model"
        )
    return perplexity
