"""Tests whether two sets of figures differ by more than their own scatter."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from detour.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Mean of paired differences with an interval around it.

    Attributes:
        mean: first minus second.
        low: lower end; minus infinity where one pair cannot tell.
        high: upper end.
        pairs: of samples.
    """

    mean: float
    low: float
    high: float
    pairs: int

    @property
    def significant(self) -> bool:
        """Whether the interval excludes zero, so that the two differ by more than chance."""
        return self.low > 0 or self.high < 0


def paired_difference(
    first: Sequence[float], second: Sequence[float], *, comparisons: int = 1, confidence: float = 0.95
) -> Difference:
    """Mean of ``first − second`` over pairs, with Student's interval.

    Args:
        first: samples that do not depend on each other.
        second: as many, sample i under the same conditions (prompt and seed) as sample i of ``first``.
        comparisons: made at once; each interval is widened so that all of them hold together with ``confidence``
            (Bonferroni). Of 20 honest comparisons at 95 % one would be a false alarm.
        confidence: between 0 and 1.

    Raises:
        ConfigError: the samples do not pair up.
    """
    if len(first) != len(second) or not first:
        raise ConfigError(f"{len(first)} and {len(second)} samples do not pair up.")
    gaps = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    mean = float(gaps.mean())
    if len(gaps) < 2:
        return Difference(mean=mean, low=-math.inf, high=math.inf, pairs=1)
    alone = 1 - (1 - confidence) / comparisons
    reach = student_limit(len(gaps) - 1, alone) * float(gaps.std(ddof=1)) / math.sqrt(len(gaps))
    return Difference(mean=mean, low=mean - reach, high=mean + reach, pairs=len(gaps))


@cache
def student_limit(degrees: int, confidence: float) -> float:
    """The t within which Student's variable with ``degrees`` of freedom stays, on both sides, with ``confidence``.

    With x = sin θ and t = √n · tan θ the density is ``cos(θ)^(n−1)`` over (−π/2, π/2), which is integrated by
    Simpson's rule; the result is good to six digits.

    Source: Student 1908, Biometrika 6.
    """
    angles = np.linspace(0.0, math.pi / 2, 40_001)
    density = np.cos(angles) ** (degrees - 1)
    width = angles[1]
    pieces = (density[:-2:2] + 4 * density[1:-1:2] + density[2::2]) * width / 3
    inside = np.concatenate([[0.0], np.cumsum(pieces)])
    angle = float(np.interp(confidence, inside / inside[-1], angles[::2]))
    return math.sqrt(degrees) * math.tan(angle)
