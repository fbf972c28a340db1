"""How strong adapters are at each step of drawing: early steps lay a picture out, late ones finish it."""

import math
from collections.abc import Sequence
from itertools import pairwise

from detour.errors import ConfigError

StepWeight = tuple[float, float]
"""(share of the steps that are done, factor from there on)."""


def parse_step_weights(text: str) -> tuple[StepWeight, ...]:
    """``"0=1,0.5=0"`` → ``((0.0, 1.0), (0.5, 0.0))``: as trained in the first half, switched off in the second.

    Raises:
        ConfigError: not of this form; see :func:`check_step_weights`.
    """
    weights = []
    for piece in filter(None, (piece.strip() for piece in text.split(","))):
        share, equals, factor = piece.partition("=")
        try:
            weights.append((float(share), float(factor)))
        except ValueError:
            equals = ""
        if not equals:
            raise ConfigError(f"step weights '{piece}': write SHARE=WEIGHT, e.g. 0=1,0.5=0.")
    return check_step_weights(tuple(weights))


def parse_interval(text: str) -> tuple[float, float]:
    """``"0.2-0.8"`` → ``(0.2, 0.8)``.

    Raises:
        ConfigError: not of this form; whether the shares make an interval is not looked at.
    """
    begin, _, end = text.partition("-")
    try:
        return float(begin), float(end)
    except ValueError:
        raise ConfigError(
            f"interval '{text}': write FROM-TO, two shares of the steps, e.g. 0.2-0.8."
        ) from None


def check_step_weights(weights: tuple[StepWeight, ...]) -> tuple[StepWeight, ...]:
    """``weights`` if they say what happens from the first step on.

    Raises:
        ConfigError: they do not begin at 0, do not rise, reach 1, or hold what is no number.
    """
    shares = [share for share, _ in weights]
    if not weights or not all(math.isfinite(number) for pair in weights for number in pair):
        raise ConfigError("step weights: write SHARE=WEIGHT pairs of numbers, e.g. 0=1,0.5=0.")
    if shares[0] != 0 or shares[-1] >= 1 or any(a >= b for a, b in pairwise(shares)):
        raise ConfigError(
            f"step weights begin at {shares[0]:g} and end at {shares[-1]:g}: begin at share 0, let shares rise "
            "and stay below 1, e.g. 0=1,0.5=0."
        )
    return weights


def weight_at(weights: Sequence[StepWeight], done: int, total: int) -> float:
    """Factor of the step that comes after ``done`` of ``total`` steps."""
    return [factor for share, factor in weights if share * total <= done + 1e-9][-1]


def is_guided(interval: tuple[float, float], done: int, total: int) -> bool:
    """Whether guidance applies to the step that comes after ``done`` of ``total`` steps.

    Args:
        interval: shares of the steps at which guidance begins and ends.
        done: steps that are done.
        total: steps in all.

    Source: Kynkäänniemi et al. 2024, arXiv:2404.07724, whose interval is one of noise levels.
    """
    begin, end = interval
    return begin * total <= done + 1e-9 and done + 1e-9 < end * total
