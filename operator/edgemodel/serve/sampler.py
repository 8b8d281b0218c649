"""Draws tokens, for engines that only compute logits."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemodel.serve.engine import Sampling, Token

Logits = NDArray[np.floating[Any]]


class Sampler:
    """Draws the tokens of one request, from randomness of its own."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._random = np.random.default_rng(None if sampling.seed is None else sampling.seed % 2**64)

    def draw(self, logits: Logits) -> Token:
        """The next token, by the logits of the vocabulary."""
        greedy = self._sampling.temperature == 0
        token = int(logits.argmax()) if greedy else self._sample(logits)
        return Token(token, logprob(logits, token) if self._sampling.logprobs else None)

    def _sample(self, logits: Logits) -> int:
        weights = logits.astype(np.float64)
        weights -= weights.max()
        weights /= self._sampling.temperature
        np.exp(weights, out=weights)
        if self._sampling.top_p == 1:
            return self._pick(weights.cumsum())
        share = self._sampling.top_p * weights.sum()
        # All that are less likely than this have less than what is left out together: they need not be sorted.
        likely = np.flatnonzero(weights >= (weights.sum() - share) / len(weights))
        likely = likely[np.argsort(-weights[likely], kind="stable")]
        cumulative = weights[likely].cumsum()
        count = int(np.searchsorted(cumulative, share)) + 1
        return int(likely[self._pick(cumulative[:count])])

    def _pick(self, cumulative: NDArray[np.float64]) -> int:
        point = self._random.random() * cumulative[-1]
        return min(int(np.searchsorted(cumulative, point, side="right")), len(cumulative) - 1)


def logprob(logits: Logits, token: int) -> float:
    """Natural logarithm of a token's probability."""
    shifted = logits.astype(np.float64) - logits.max()
    return float(shifted[token] - np.log(np.exp(shifted).sum()))
