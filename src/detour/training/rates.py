"""The learning rate as a function of the step."""

import math
from typing import Literal

ScheduleKind = Literal["constant", "cosine", "linear", "cosine_restarts"]


def learning_rate(
    step: int, *, peak: float, kind: ScheduleKind, warmup: int, steps: int, cycles: int = 1
) -> float:
    """Rate of update ``step`` (counted from 0) of ``steps``.

    Every kind begins with the same linear warm-up, which reaches ``peak`` at update ``warmup``; its first update is
    not zero, so none is wasted. Cosine and linear then fall towards zero, which the update after the last one would
    have; ``cosine_restarts`` falls ``cycles`` times and jumps back to ``peak`` in between.

    Source: restarts: Loshchilov and Hutter 2016, arXiv:1608.03983, with cycles of equal length.
    """
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if kind == "constant":
        return peak
    share = (step - warmup) / max(1, steps - warmup)
    if kind == "linear":
        return peak * (1 - share)
    if kind == "cosine_restarts":
        share = (share * cycles) % 1.0
    return peak * 0.5 * (1 + math.cos(math.pi * share))
