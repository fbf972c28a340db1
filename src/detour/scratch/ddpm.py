"""DDPM: walk back from noise to a picture, and stumble a little at every step.

The UNet names the noise in the picture; with it one can guess the clean picture. Jumping there at once gives mush, for
the guess is an average of all pictures that this noise could hide. So one goes a small way towards it and adds fresh
noise, as much as a true picture of that timestep would have.
"""

from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor

from detour.scratch.spacing import alphas_along

Variance = Literal["fixed_small", "fixed_large"]

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""(noisy, timestep) → predicted noise."""


def clean_guess(noisy: Tensor, noise_pred: Tensor, alpha: Tensor) -> Tensor:
    """The clean picture if the noise is as predicted: the forward process solved for ``x₀``."""
    return (noisy - (1 - alpha).sqrt() * noise_pred) / alpha.sqrt()


def step(
    noisy: Tensor,
    noise_pred: Tensor,
    alpha: Tensor,
    alpha_next: Tensor,
    fresh: Tensor,
    *,
    variance: Variance = "fixed_small",
) -> Tensor:
    """Make one step down with DDPM; any shape.

    Args:
        noisy: at ᾱ = ``alpha``.
        noise_pred: of the UNet.
        alpha: ᾱ now.
        alpha_next: ᾱ after the step, larger; a scalar as ``alpha``.
        fresh: standard normal; zeros in the last step.
        variance: of the fresh noise: what a picture that is known would have (small), or β itself (large). The
            truth lies between them.

    Source: Ho et al. 2020, arXiv:2006.11239, equations 6 and 7 and section 3.2.
    """
    beta = 1 - alpha / alpha_next  # of this stride, which may be many timesteps of training
    towards_clean = alpha_next.sqrt() * beta / (1 - alpha)
    stay = (1 - beta).sqrt() * (1 - alpha_next) / (1 - alpha)
    mean = towards_clean * clean_guess(noisy, noise_pred, alpha) + stay * noisy
    small = beta * (1 - alpha_next) / (1 - alpha)
    return mean + (small if variance == "fixed_small" else beta).sqrt() * fresh


def sample(
    denoiser: Denoiser,
    start: Tensor,
    stops: Tensor,
    alphas_cumprod: Tensor,
    fresh: Sequence[Tensor],
    *,
    variance: Variance = "fixed_small",
) -> Tensor:
    """Draw a picture from noise with DDPM.

    Args:
        denoiser: the UNet with its text.
        start: standard normal.
        stops: falling timesteps, from :func:`detour.scratch.spacing.timesteps`.
        alphas_cumprod: (T,) of training.
        fresh: noise of each step; that of timestep 0 is not used.
        variance: as in :func:`step`.
    """
    noisy = start
    for stop, (alpha, alpha_next), noise in zip(
        stops, alphas_along(stops, alphas_cumprod), fresh, strict=True
    ):
        noise_pred = denoiser(noisy, stop)
        noisy = step(noisy, noise_pred, alpha, alpha_next, noise * (stop > 0), variance=variance)
    return noisy
