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


FEW_STEPS_A_CYCLE = 10
"""Number of steps between two restarts below which the rate jumps more often than it falls."""


def schedule_fault(kind: str, *, warmup: int, steps: int, cycles: int) -> str:
    """What makes a schedule miss its run: a clause; empty where it fits.

    Args:
        kind: of :data:`ScheduleKind`.
        warmup: steps of linear warm-up.
        steps: of the run.
        cycles: of ``cosine_restarts``.
    """
    if warmup >= steps:
        return f"the warm-up takes {warmup} steps and the run has {steps}, so the rate never reaches its peak"
    left = steps - warmup
    if kind == "cosine_restarts" and 1 < cycles >= left:
        return f"cosine_restarts has {cycles} cycles in the {left} steps after the warm-up, so none can fall"
    return ""


def schedule_doubt(kind: str, *, warmup: int, steps: int, cycles: int) -> str:
    """What of a schedule that fits is unusual enough to be said: a clause; empty where nothing is."""
    if 2 * warmup > steps:
        return f"the warm-up takes {warmup} of {steps} steps, so most of the run has a lower rate than train.optim.lr"
    if kind == "cosine_restarts" and cycles * FEW_STEPS_A_CYCLE > steps - warmup:
        each = (steps - warmup) / cycles
        return f"cosine_restarts falls {cycles} times, every {each:.1f} steps: one or two cycles suit so short a run"
    return ""
