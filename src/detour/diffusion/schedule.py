"""Noise schedules and the forward process: how much of a latent is left at each timestep."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from detour.errors import BaseError


def alphas_cumprod(scheduler_config: Mapping[str, Any]) -> Tensor:
    """Share of the clean latent's variance that is left at each timestep.

    Args:
        scheduler_config: a diffusers ``scheduler_config.json``.

    Returns:
        (num_train_timesteps,) float32, falling; multiplied up in float64, because a thousand float32 factors
        lose the last digits.

    Raises:
        BaseError: the schedule is of a kind that is not known.

    Source: Ho et al. 2020, arXiv:2006.11239, equation 4; zero terminal SNR: Lin et al. 2023, arXiv:2305.08891.
    """
    alphas = torch.cumprod(1.0 - _betas(scheduler_config), dim=0)
    if scheduler_config.get("rescale_betas_zero_snr"):
        alphas = _with_zero_terminal_snr(alphas)
    return alphas.float()


def _betas(config: Mapping[str, Any]) -> Tensor:
    if config.get("trained_betas") is not None:
        return torch.tensor(config["trained_betas"], dtype=torch.float64)
    num = int(config.get("num_train_timesteps", 1000))
    start, end = float(config.get("beta_start", 0.0001)), float(config.get("beta_end", 0.02))
    kind = str(config.get("beta_schedule", "linear"))
    if kind == "linear":
        return torch.linspace(start, end, num, dtype=torch.float64)
    if kind == "scaled_linear":  # SD's own: linear in √β, not linear betas
        return torch.linspace(math.sqrt(start), math.sqrt(end), num, dtype=torch.float64) ** 2
    if kind == "squaredcos_cap_v2":
        return torch.tensor([_cosine_beta(i, num) for i in range(num)], dtype=torch.float64)
    raise BaseError(
        f"scheduler: beta_schedule '{kind}' is not known (linear, scaled_linear and squaredcos_cap_v2 are). "
        "Check the base's scheduler_config.json."
    )


def _cosine_beta(index: int, num: int) -> float:
    def alpha_bar(share: float) -> float:
        return math.cos((share + 0.008) / 1.008 * math.pi / 2) ** 2

    return min(1 - alpha_bar((index + 1) / num) / alpha_bar(index / num), 0.999)


def _with_zero_terminal_snr(alphas: Tensor) -> Tensor:
    root = alphas.sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


def add_noise(latents: Tensor, noise: Tensor, timesteps: Tensor, alphas: Tensor) -> Tensor:
    """Forward process: ``√ᾱ x₀ + √(1−ᾱ) ε``.

    Args:
        latents: (N, C, H, W) clean latents.
        noise: as ``latents``, standard normal.
        timesteps: (N,) int64.
        alphas: (T,) from :func:`alphas_cumprod`, on the same device.

    Returns:
        As ``latents``. Its variance is ``ᾱ·Var(x₀) + 1 − ᾱ``.

    Source: Ho et al. 2020, arXiv:2006.11239, equation 4.
    """
    signal, noise_share = _roots(timesteps, alphas, latents)
    return signal * latents + noise_share * noise


def velocity(latents: Tensor, noise: Tensor, timesteps: Tensor, alphas: Tensor) -> Tensor:
    """Target of v-prediction: ``√ᾱ ε − √(1−ᾱ) x₀``. Arguments as in :func:`add_noise`.

    Source: Salimans and Ho 2022, arXiv:2202.00512, appendix D.
    """
    signal, noise_share = _roots(timesteps, alphas, latents)
    return signal * noise - noise_share * latents


def _roots(timesteps: Tensor, alphas: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    alpha = alphas[timesteps].view(-1, *([1] * (like.ndim - 1)))
    return alpha.sqrt().to(like.dtype), (1 - alpha).sqrt().to(like.dtype)


def snr(alphas: Tensor) -> Tensor:
    """Signal-to-noise ratio ``ᾱ / (1 − ᾱ)``, shape and dtype of ``alphas``."""
    return alphas / (1 - alphas)
