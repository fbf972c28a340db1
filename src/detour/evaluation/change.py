"""The change that an adapter makes to a figure, with a confidence interval over prompts."""

import math
from collections.abc import Sequence

import numpy as np

from detour.evaluation.compared import Part
from detour.evaluation.differences import paired_difference


class Change(Part):
    """Difference of a figure with the adapter and without, over the same prompts and seeds."""

    mean: float
    low: float | None
    """Lower end of Student's 95 % interval; ``None`` for a single prompt."""
    high: float | None
    prompts: int

    @property
    def significant(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def change_over_prompts(adapter: Sequence[float], base: Sequence[float], *, seeds: int) -> Change:
    """Mean change over prompts with its confidence interval.

    Pictures of one prompt are alike, so the prompts are the samples: each gives the mean over its seeds.

    Args:
        adapter: a figure of each picture, prompt-major.
        base: of the same prompts and seeds.
        seeds: pictures of each prompt.

    Raises:
        ConfigError: the sides do not pair up.
    """
    difference = paired_difference(over_seeds(adapter, seeds), over_seeds(base, seeds))
    sure = math.isfinite(difference.low)
    return Change(
        mean=difference.mean,
        low=difference.low if sure else None,
        high=difference.high if sure else None,
        prompts=difference.pairs,
    )


def over_seeds(figures: Sequence[float], seeds: int) -> list[float]:
    """Mean over the seeds of each prompt; values are prompt-major."""
    means: list[float] = np.asarray(figures, dtype=float).reshape(-1, seeds).mean(axis=1).tolist()
    return means
