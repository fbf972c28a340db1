"""How adapters move a base's noise predictions: at fixed latents, so that a few forward passes tell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from detour.generation.engine import PictureEngine, Request
from detour.specs.generation import PictureSpec

STEPS = 12
MOMENTS = (1, 4, 8)
"""Forward passes of a drawing in :data:`STEPS` steps: early, where the picture is laid out, to late."""


@dataclass(frozen=True, kw_only=True)
class FixedLatents:
    """What the UNet was handed while the plain base drew some pictures; text comes as the base encodes it."""

    calls: tuple[tuple[tuple[Any, ...], Mapping[str, Any]], ...]


def record_latents(engine: PictureEngine, requests: Sequence[Request]) -> FixedLatents:
    """Draw the requests with the base as it stands, and keep the UNet's inputs at :data:`MOMENTS`.

    Args:
        engine: without adapters, or with all of them at weight 0.
        requests: a few; they go through the UNet as one batch.
    """
    calls: list[tuple[tuple[Any, ...], Mapping[str, Any]]] = []
    handle = engine.unet.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    try:
        engine.draw(requests, PictureSpec(steps=STEPS), batch=len(requests))
    finally:
        handle.remove()
    return FixedLatents(calls=tuple(calls[moment] for moment in MOMENTS))


@torch.no_grad()
def predictions(engine: PictureEngine, latents: FixedLatents) -> Tensor:
    """(calls, numbers) float64: the UNet's predictions as it stands now."""
    rows = [engine.unet(*args, **kwargs)[0].double().flatten() for args, kwargs in latents.calls]
    return torch.stack(rows).cpu()


@dataclass(frozen=True, kw_only=True)
class PushPair:
    """How two adapters move the predictions, alone and together.

    Attributes:
        agreement: cosine of the two moves, from -1 (opposite) over 0 (unrelated) to 1 (the same).
        louder: size of the move of both over that of the stronger one alone.
        kept_first: share of the first one's move that is there in the move of both; above 1 it is amplified.
        kept_second: the same of the second.
    """

    agreement: float
    louder: float
    kept_first: float
    kept_second: float


def compare_pushes(first: Tensor, second: Tensor, both: Tensor) -> PushPair:
    """Figures of three moves, each a difference to the plain base's predictions of one shape.

    A move of nothing agrees with nothing and keeps nothing.
    """

    def ratio(above: Tensor, below: float) -> float:
        return float(above) / below if below > 0 else 0.0

    size_first, size_second = float(first.norm()), float(second.norm())
    return PushPair(
        agreement=ratio((first * second).sum(), size_first * size_second),
        louder=ratio(both.norm(), max(size_first, size_second)),
        kept_first=ratio((both * first).sum(), size_first**2),
        kept_second=ratio((both * second).sum(), size_second**2),
    )
