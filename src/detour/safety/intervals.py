"""Exact confidence intervals of shares."""

from __future__ import annotations

import math

HALVINGS = 60


def clopper_pearson(hits: int, trials: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Exact two-sided interval of a share: (0, 1) where there was no trial.

    Args:
        hits: 0 to ``trials``.
        trials: independent ones.
        confidence: 0 to 1.

    Source: Clopper and Pearson 1934.
    """
    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else _share_at(hits, trials, tail)
    high = 1.0 if hits == trials else _share_at(hits + 1, trials, 1 - tail)
    return low, high


def _share_at(least: int, trials: int, chance: float) -> float:
    """Share at which ``least`` or more hits have the given probability, which grows with the share."""
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _at_least(least, trials, middle) < chance else (low, middle)
    return (low + high) / 2


def _at_least(least: int, trials: int, share: float) -> float:
    """Probability of ``least`` or more hits in independent trials."""
    terms = (
        math.lgamma(trials + 1)
        - math.lgamma(hits + 1)
        - math.lgamma(trials - hits + 1)
        + hits * math.log(share)
        + (trials - hits) * math.log1p(-share)
        for hits in range(least, trials + 1)
    )
    return math.fsum(math.exp(one) for one in terms)
