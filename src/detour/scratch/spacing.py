"""Which of the thousand timesteps of training a sampler of few steps stops at.

The three ways differ most at the start: ``trailing`` starts at the last timestep of training, ``leading`` nearly a
whole stride before it; the latter is Stable Diffusion's own, with an ``offset`` of 1. With 20 steps that is 999
against 951.
"""

from typing import Literal

import torch
from torch import Tensor

Spacing = Literal["leading", "linspace", "trailing"]


def timesteps(steps: int, *, spacing: Spacing = "leading", offset: int = 0, trained: int = 1000) -> Tensor:
    """Choose falling timesteps, (steps,) int64.

    Args:
        steps: of the sampler.
        spacing: see above.
        offset: added to each, in ``leading`` alone.
        trained: timesteps that the base was trained with.

    Source: Lin et al. 2023, arXiv:2305.08891, table 2.
    """
    if spacing == "leading":
        return torch.arange(steps - 1, -1, -1) * (trained // steps) + offset
    if spacing == "linspace":
        return torch.linspace(trained - 1, 0, steps, dtype=torch.float64).round().long()
    return (trained - torch.arange(steps, dtype=torch.float64) * trained / steps).round().long() - 1


def alphas_along(stops: Tensor, alphas_cumprod: Tensor, *, final: float = 1.0) -> list[tuple[Tensor, Tensor]]:
    """Pair ᾱ at each stop with ᾱ where the step from it leads.

    Args:
        stops: from :func:`timesteps`.
        alphas_cumprod: (trained,).
        final: where the last step leads: 1 is a clean picture; SD's DDIM stops at the first ᾱ
            (``set_alpha_to_one`` false), where 0.09 % of the variance is noise.
    """
    here = alphas_cumprod[stops]
    there = torch.cat([here[1:], here.new_full((1,), final)])
    return list(zip(here, there, strict=True))
