"""Tokens are drawn with the probabilities that were asked for."""

import math
from collections import Counter

import numpy as np
import pytest

from edgemodel.serve.engine import Sampling
from edgemodel.serve.sampler import Sampler

PROBABILITIES = [0.05, 0.4, 0.03, 0.25, 0.2, 0.07]
LOGITS = np.log(np.array(PROBABILITIES, np.float32)) + 3
DRAWS = 4000


def _shares(temperature: float, top_p: float) -> dict[int, float]:
    sampler = Sampler(Sampling(max_tokens=1, seed=1, temperature=temperature, top_p=top_p))
    drawn = Counter(sampler.draw(LOGITS).id for _ in range(DRAWS))
    return {token: count / DRAWS for token, count in drawn.items()}


def test_the_most_likely_token() -> None:
    assert {Sampler(Sampling(1, temperature=0)).draw(LOGITS).id for _ in range(10)} == {1}


@pytest.mark.parametrize(
    ("top_p", "kept"), [(1.0, [0, 1, 2, 3, 4, 5]), (0.9, [1, 3, 4, 5]), (0.84, [1, 3, 4]), (0.3, [1]), (1e-9, [1])]
)
@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_a_share_of_the_most_likely(top_p: float, kept: list[int], temperature: float) -> None:
    """What is kept is the least that has the share together, at the temperature that was asked for."""
    weights = np.array(PROBABILITIES) ** (1 / temperature)
    chances = weights / weights.sum()
    if temperature != 1:  # by the definition, one token after the other
        order = sorted(range(len(chances)), key=lambda token: -chances[token])
        count = next(n for n in range(1, 7) if n == 6 or sum(chances[order[:n]]) >= top_p)
        kept = order[:count]
    expected = {token: chances[token] / sum(chances[kept]) for token in kept}
    found = _shares(temperature, top_p)
    assert found.keys() <= expected.keys()
    for token, share in expected.items():
        assert found.get(token, 0) == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / DRAWS) + 1e-9)


def test_seeds() -> None:
    def drawn(seed: int | None) -> list[int]:
        sampler = Sampler(Sampling(1, seed=seed))
        return [sampler.draw(LOGITS).id for _ in range(50)]

    assert drawn(7) == drawn(7)
    assert drawn(-1) == drawn(2**64 - 1)
    assert drawn(7) != drawn(8)
    assert drawn(None) != drawn(None)


def test_log_probabilities_are_the_models_at_any_temperature() -> None:
    for temperature in (0.0, 0.3, 1.7):
        token = Sampler(Sampling(1, temperature=temperature, seed=3, logprobs=True)).draw(LOGITS)
        assert token.logprob == pytest.approx(math.log(PROBABILITIES[token.id]), abs=1e-6)
    assert Sampler(Sampling(1)).draw(LOGITS).logprob is None


def test_logits_so_far_apart_that_their_exponentials_are_none() -> None:
    logits = np.array([-1e30, 5e4, -1e30, 4.9e4], np.float32)
    assert Sampler(Sampling(1, temperature=1e-4, top_p=0.5)).draw(logits).id == 1
    assert Sampler(Sampling(1, temperature=2.0)).draw(logits).id == 1
