"""DDIM: the same walk without stumbling, so that long strides are safe and a seed means a picture.

At each stop guess the clean picture, then put the *same* noise back, only less of it. ``eta`` mixes fresh noise in: at
1 the walk is DDPM's. One trained UNet serves both: training never says how to walk.
"""

from collections.abc import Sequence

from torch import Tensor

from detour.scratch.ddpm import Denoiser, clean_guess
from detour.scratch.spacing import alphas_along


def step(
    noisy: Tensor,
    noise_pred: Tensor,
    alpha: Tensor,
    alpha_next: Tensor,
    *,
    eta: float = 0.0,
    fresh: Tensor | None = None,
) -> Tensor:
    """Make one step down with DDIM; any shape.

    Args:
        noisy: at ᾱ = ``alpha``.
        noise_pred: of the UNet.
        alpha: ᾱ now.
        alpha_next: ᾱ after the step, larger.
        eta: 0 adds no noise, 1 as much as DDPM with its small variance.
        fresh: standard normal; needed where ``eta`` is not 0.

    Source: Song et al. 2020, arXiv:2010.02502, equations 12 and 16.
    """
    sigma = eta * ((1 - alpha_next) / (1 - alpha) * (1 - alpha / alpha_next)).sqrt()
    same_noise = (1 - alpha_next - sigma**2).sqrt() * noise_pred
    there = alpha_next.sqrt() * clean_guess(noisy, noise_pred, alpha) + same_noise
    return there if fresh is None else there + sigma * fresh


def sample(
    denoiser: Denoiser,
    start: Tensor,
    stops: Tensor,
    alphas_cumprod: Tensor,
    *,
    final: float = 1.0,
    eta: float = 0.0,
    fresh: Sequence[Tensor] = (),
) -> Tensor:
    """Draw a picture from noise with DDIM.

    Args:
        denoiser: the UNet with its text.
        start: standard normal.
        stops: falling timesteps, from :func:`detour.scratch.spacing.timesteps`.
        alphas_cumprod: (T,) of training.
        final: ᾱ where the last step leads, see :func:`detour.scratch.spacing.alphas_along`.
        eta: as in :func:`step`.
        fresh: noise of each step, where ``eta`` is not 0.
    """
    noisy = start
    for index, (alpha, alpha_next) in enumerate(alphas_along(stops, alphas_cumprod, final=final)):
        noise_pred = denoiser(noisy, stops[index])
        noisy = step(noisy, noise_pred, alpha, alpha_next, eta=eta, fresh=fresh[index] if fresh else None)
    return noisy
