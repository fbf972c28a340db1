"""Pictures between two others: start noise on the sphere, text states on the line."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from detour.bases.text import Conditioning
from detour.errors import ConfigError

PARALLEL = 1e-6
"""Sine of the angle below which two noises are taken for one direction, and the line between them is followed."""


@dataclass(frozen=True, kw_only=True)
class Toward:
    """What a picture is on the way to.

    Attributes:
        share: of the way, 0 to 1; at 0 the picture is that of its own prompt and seed, at 1 that of these.
        prompt: whose states are approached; ``None`` keeps the picture's own.
        seed: whose start noise is approached; ``None`` keeps the picture's own.
    """

    share: float
    prompt: str | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        """Refuse a share that is none.

        Raises:
            ConfigError: below 0, above 1, or no number.
        """
        if not 0 <= self.share <= 1:
            raise ConfigError(f"share {self.share}: choose one from 0 to 1.")


def spherical(first: Tensor, second: Tensor, share: float) -> Tensor:
    """Point on the great circle between two noises: its norm stays what noise has, where the line's middle is short.

    Args:
        first: any shape, float32; at share 0 the result is it to the bit.
        second: of the same shape; at share 1 the result is it to the bit.
        share: 0 to 1.

    Source: Shoemake 1985, "Animating rotation with quaternion curves", equation 8: ``sin((1 − t)Ω)/sin Ω · a +
    sin(tΩ)/sin Ω · b``.
    """
    if share in (0, 1):
        return second if share else first
    a, b = first.double().flatten(), second.double().flatten()
    cosine = float(torch.dot(a, b) / (a.norm() * b.norm()))
    angle = math.acos(max(-1.0, min(1.0, cosine)))
    if math.sin(angle) < PARALLEL:
        return torch.lerp(first, second, share)
    weights = (math.sin((1 - share) * angle) / math.sin(angle), math.sin(share * angle) / math.sin(angle))
    return (weights[0] * first.double() + weights[1] * second.double()).float()


def between_texts(first: Conditioning, second: Conditioning, share: float) -> Conditioning:
    """States on the line between those of two prompts, pooled ones too; the shorter prompt gets zeros behind it.

    Args:
        first: one row; at share 0 the result is it.
        second: one row; at share 1 the result is it.
        share: 0 to 1.
    """
    if share in (0, 1):
        return second if share else first
    both = first.cat(second)
    pooled = None if both.pooled is None else torch.lerp(both.pooled[:1], both.pooled[1:], share)
    mask = None if both.mask is None else both.mask[:1] | both.mask[1:]
    return Conditioning(torch.lerp(both.states[:1], both.states[1:], share), pooled, mask, first.guidance)
