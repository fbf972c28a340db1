"""How a picture drowns in noise: a thousand small steps, or one jump to any of them.

One step keeps ``√(1−β)`` of the picture and adds ``√β`` of fresh noise. Because sums of independent normal numbers are
normal, t steps are one step with ``ᾱ = (1−β₁) … (1−β_t)``: training never walks, it jumps. ``x + ε`` is not this: its
variance grows, and the UNet would see brighter and brighter inputs.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def betas_of(alphas_cumprod: Tensor) -> Tensor:
    """β of each step from what is left after it, (T,) in the dtype given: ``1 − ᾱ_t / ᾱ_{t−1}``."""
    before = torch.cat([alphas_cumprod.new_ones(1), alphas_cumprod[:-1]])
    return 1 - alphas_cumprod / before


def step_by_step(clean: Tensor, noises: Sequence[Tensor], betas: Tensor) -> Iterator[Tensor]:
    """The picture after 1, 2, 3 … steps; each is a noisier version of the one before.

    Args:
        clean: any shape.
        noises: one for each step, standard normal, as ``clean``.
        betas: (T,), at least as many as noises.

    Source: Ho et al. 2020, arXiv:2006.11239, equation 2.
    """
    now = clean
    for noise, beta in zip(noises, betas, strict=False):
        now = (1 - beta).sqrt() * now + beta.sqrt() * noise
        yield now


def in_one_jump(clean: Tensor, noise: Tensor, alpha_cumprod: Tensor) -> Tensor:
    """The picture at a timestep at once, ``√ᾱ x₀ + √(1−ᾱ) ε``; its variance is ``ᾱ·Var(x₀) + 1 − ᾱ``.

    Source: Ho et al. 2020, arXiv:2006.11239, equation 4.
    """
    return alpha_cumprod.sqrt() * clean + (1 - alpha_cumprod).sqrt() * noise


def shares(alphas_cumprod: Tensor, step: int) -> Tensor:
    """How much of the noise of each step is in the picture after ``step`` steps, (step,); squares sum to ``1 − ᾱ``."""
    alphas = alphas_cumprod[:step]
    return (betas_of(alphas_cumprod)[:step] * alphas[-1] / alphas).sqrt()


def joined_noise(noises: Sequence[Tensor], alphas_cumprod: Tensor) -> Tensor:
    """The one noise with which :func:`in_one_jump` lands where :func:`step_by_step` ends with ``noises``.

    It is standard normal again: the squares of the shares sum to ``1 − ᾱ``, by which it is divided.
    """
    step = len(noises)
    weighted = [share * noise for share, noise in zip(shares(alphas_cumprod, step), noises, strict=True)]
    return torch.stack(weighted).sum(0) / (1 - alphas_cumprod[step - 1]).sqrt()
