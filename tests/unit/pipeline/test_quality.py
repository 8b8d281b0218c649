import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgemodel.pipeline.errors import EvaluationFailedError
from edgemodel.pipeline.quality import compare, remember, windows

VOCABULARY = 50
TEXT: list[list[int]] = np.random.default_rng(1).integers(0, VOCABULARY, (4, 64)).tolist()


class Disturbed:
    """Knows the next token a little, and is disturbed."""

    def __init__(self, noise: float) -> None:
        self.noise = noise

    def __call__(self, window: Sequence[int]) -> NDArray[np.float32]:
        logits = np.random.default_rng(window).normal(0, 1, (len(window), VOCABULARY)) * self.noise
        logits[np.arange(len(window) - 1), window[1:]] += 3
        return logits.astype(np.float32)


def report(before: Disturbed, after: Disturbed, path: Path) -> tuple[float, float, float, float, int]:
    baseline = remember(before, TEXT, path, lambda _: None)
    found = compare(after, TEXT, path, baseline, "sha256:" + "0" * 64, lambda _: None)
    figures = (found.perplexity, found.accuracy, found.kl_divergence, found.top_token_agreement)
    perplexity, accuracy, divergence, agreement = (float(figure or "nan") for figure in figures)
    return perplexity, accuracy, divergence, agreement, found.tokens


def test_a_model_is_as_good_as_itself(tmp_path: Path) -> None:
    perplexity, accuracy, divergence, agreement, tokens = report(Disturbed(0), Disturbed(0), tmp_path / "logits")
    assert perplexity == pytest.approx((math.exp(3) + VOCABULARY - 1) / math.exp(3), abs=1e-3)
    assert (accuracy, agreement) == (1, 1)
    assert abs(divergence) < 1e-3
    assert tokens == 4 * (64 - 1 - 32), "the second half of each window, and its last token predicts nothing"


def test_what_is_disturbed_is_worse(tmp_path: Path) -> None:
    _, accuracy, divergence, agreement, _ = report(Disturbed(0), Disturbed(1.5), tmp_path / "logits")
    assert accuracy < 0.9
    assert divergence > 0.1
    assert agreement < 1


def test_nonsense_is_no_figure(tmp_path: Path) -> None:
    def broken(window: Sequence[int]) -> NDArray[np.float32]:
        return np.full((len(window), VOCABULARY), np.nan, np.float32)

    with pytest.raises(EvaluationFailedError, match="no sense"):
        remember(broken, TEXT, tmp_path / "logits", lambda _: None)


def test_windows_are_as_the_model_can_read_them() -> None:
    tokens = list(range(2000))
    assert [len(window) for window in windows(tokens, 0, None)] == [512] * 3
    assert [len(window) for window in windows(tokens, 128, None, at_most=300)] == [128] * 2
    assert [window[:2] for window in windows(tokens, 512, 7)] == [[7, 1], [7, 513], [7, 1025]]
    assert [len(window) for window in windows(tokens[:100], 512, None)] == [100]
    assert windows(tokens[:2], 512, None) == []
