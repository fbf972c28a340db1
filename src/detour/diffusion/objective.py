"""What the UNet is asked to predict, and how much each timestep counts."""

from typing import Literal, get_args

import torch
from torch import Tensor

from detour.diffusion.schedule import snr, velocity
from detour.errors import BaseError

PredictionType = Literal["epsilon", "v_prediction", "sample"]
Weighting = Literal["uniform", "min_snr"]


def prediction_type(name: str) -> PredictionType:
    """``name`` of a scheduler config as a type that the other functions take.

    Raises:
        BaseError: the base predicts something else.
    """
    for known in get_args(PredictionType):
        if name == known:
            return known
    raise BaseError(
        f"scheduler: prediction_type '{name}' is not known ({', '.join(get_args(PredictionType))} are). "
        "Check the base's scheduler_config.json."
    )


def target(
    kind: PredictionType, *, latents: Tensor, noise: Tensor, timesteps: Tensor, alphas: Tensor
) -> Tensor:
    """What a perfect UNet would answer, (N, C, H, W): the noise, the velocity or the clean latents.

    Args:
        kind: the base's ``prediction_type``.
        latents: (N, C, H, W) clean latents.
        noise: as ``latents``.
        timesteps: (N,) int64.
        alphas: (T,) float32.
    """
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return velocity(latents, noise, timesteps, alphas)
    return latents


def loss_weights(
    weighting: Weighting, kind: PredictionType, timesteps: Tensor, alphas: Tensor, *, gamma: float = 5.0
) -> Tensor:
    """Weight of each sample's loss, (N,) float32.

    ``uniform`` is one everywhere. ``min_snr`` clamps the weight that each timestep has for the clean latent:
    ``min(SNR, γ)`` for sample prediction, divided by ``SNR`` for noise and by ``SNR + 1`` for velocity.

    Source: Hang et al. 2023, arXiv:2303.09556, section 3.4.
    """
    if weighting == "uniform":
        return torch.ones(timesteps.shape[0], dtype=torch.float32, device=timesteps.device)
    ratio = snr(alphas.float())[timesteps]
    clamped = ratio.clamp(max=gamma)
    if kind == "epsilon":
        return clamped / ratio
    return clamped / (ratio + 1) if kind == "v_prediction" else clamped


def denoising_loss(prediction: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean squared error in float32, whatever the precision of the forward pass.

    Args:
        prediction: (N, C, H, W), any float dtype.
        wanted: as ``prediction``.
        weights: (N,) from :func:`loss_weights`.

    Returns:
        Scalar float32.
    """
    per_sample = (prediction.float() - wanted.float()).square().flatten(1).mean(1)
    return (per_sample * weights).mean()
