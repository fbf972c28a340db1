"""How adapters move a base's noise predictions: at fixed latents, so that a few forward passes tell."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from detour.generation.engine import AdapterInUse, NetworkInput, PictureEngine, PictureRequest
from detour.specs.generation import PictureSpec

STEPS = 12
MOMENTS = (1, 4, 8)
"""Forward passes of a drawing in :data:`STEPS` steps: early, where the picture is laid out, to late."""


def record_latents(engine: PictureEngine, requests: Sequence[PictureRequest]) -> list[NetworkInput]:
    """Draw the requests with the base as it stands, and keep what its network was handed at :data:`MOMENTS`.

    Args:
        engine: of the base.
        requests: a few; without adapters.
    """
    asked = [replace(request, how=PictureSpec(steps=STEPS)) for request in requests]
    return engine.network_inputs(asked, MOMENTS)


def predictions(
    engine: PictureEngine, latents: Sequence[NetworkInput], adapters: Sequence[AdapterInUse] = ()
) -> Tensor:
    """(inputs, numbers) float64 on the CPU: the network's predictions with the adapters.

    What adapters do to a text encoder is left out.
    """
    rows = [engine.ask(one, adapters=adapters).double().flatten() for one in latents]
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
