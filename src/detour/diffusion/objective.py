"""What the UNet is asked to predict, and how much each timestep counts."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from detour.diffusion.schedule import snr, velocity
from detour.errors import BaseError

PredictionType = Literal["epsilon", "v_prediction", "sample"]
Weighting = Literal["uniform", "min_snr", "debiased"]
Distance = Literal["mse", "huber"]
HuberSchedule = Literal["constant", "snr"]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """How far a prediction is from its target, and how much each timestep counts.

    Attributes:
        weighting: of the timesteps, see :func:`loss_weights`.
        snr_gamma: clamp of min-SNR.
        distance: squared error, or pseudo-Huber, which outliers move less.
        huber_c: where pseudo-Huber turns from square to straight, see :func:`huber_thresholds`.
        huber_schedule: whether that place moves with the timestep.
    """

    weighting: Weighting = "uniform"
    snr_gamma: float = 5.0
    distance: Distance = "mse"
    huber_c: float = 0.1
    huber_schedule: HuberSchedule = "snr"

    def loss(
        self,
        prediction: Tensor,
        wanted: Tensor,
        *,
        kind: PredictionType,
        timesteps: Tensor,
        alphas: Tensor,
        weights: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Loss of a batch, a float32 scalar.

        Args:
            prediction: (N, C, H, W), any float dtype.
            wanted: from :func:`target`.
            kind: the base's ``prediction_type``.
            timesteps: (N,) int64.
            alphas: (T,) float32.
            weights: (N,) of each sample, on top of its timestep's.
            mask: (N, 1, H, W), of mean 1 a sample.
        """
        counted = loss_weights(self.weighting, kind, timesteps, alphas, gamma=self.snr_gamma)
        thresholds = None
        if self.distance == "huber":
            thresholds = huber_thresholds(self.huber_schedule, timesteps, alphas, c=self.huber_c)
        return denoising_loss(
            prediction,
            wanted,
            counted if weights is None else counted * weights,
            mask=mask,
            thresholds=thresholds,
        )


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


def clean_latents(
    kind: PredictionType, prediction: Tensor, *, noisy: Tensor, timesteps: Tensor, alphas: Tensor
) -> Tensor:
    """The clean latents that a prediction stands for, (N, C, H, W): the inverse of :func:`target`.

    Args:
        kind: the base's ``prediction_type``.
        prediction: (N, C, H, W).
        noisy: as ``prediction``, what was predicted from.
        timesteps: (N,) int64.
        alphas: (T,) float32.
    """
    if kind == "sample":
        return prediction
    alpha = alphas[timesteps].view(-1, *([1] * (noisy.ndim - 1)))
    if kind == "v_prediction":
        return alpha.sqrt() * noisy - (1 - alpha).sqrt() * prediction
    return (noisy - (1 - alpha).sqrt() * prediction) / alpha.sqrt()


def loss_weights(
    weighting: Weighting, kind: PredictionType, timesteps: Tensor, alphas: Tensor, *, gamma: float = 5.0
) -> Tensor:
    """Weight of each sample's loss, (N,) float32.

    ``uniform`` is one everywhere. The others are weights of the clean latent's error, ``min(SNR, γ)`` and ``√SNR``,
    divided by ``SNR`` for noise and by ``SNR + 1`` for velocity, whose errors are that much larger: so ``debiased``
    is the paper's ``1/√SNR`` for noise. For velocity sd-scripts takes ``1 / (SNR + 1)`` instead, which is the clean
    latent's error unweighted. Where the SNR is zero, both weights of velocity are zero.

    Source: min-SNR: Hang et al. 2023, arXiv:2303.09556, section 3.4; debiased: Yu et al. 2023, arXiv:2310.08442.
    """
    if weighting == "uniform":
        return torch.ones(timesteps.shape[0], dtype=torch.float32, device=timesteps.device)
    ratio = snr(alphas.float())[timesteps]
    of_clean = ratio.clamp(max=gamma) if weighting == "min_snr" else ratio.sqrt()
    if kind == "epsilon":
        return of_clean / ratio
    return of_clean / (ratio + 1) if kind == "v_prediction" else of_clean


def huber_thresholds(schedule: HuberSchedule, timesteps: Tensor, alphas: Tensor, *, c: float = 0.1) -> Tensor:
    """Where pseudo-Huber turns from square to straight at each timestep, (N,) float32.

    ``constant`` is ``c`` everywhere; ``snr`` falls from 1 at the clean end towards ``c`` in pure noise:
    ``(1 − c) / (1 + σ)² + c`` with ``σ = √((1 − ᾱ) / ᾱ)``.

    Source: Khrapov et al. 2024, arXiv:2403.16728; the ``snr`` form is the one that sd-scripts publishes.
    """
    if schedule == "constant":
        return torch.full((timesteps.shape[0],), c, dtype=torch.float32, device=timesteps.device)
    alpha = alphas.float()[timesteps]
    sigma = ((1 - alpha) / alpha).sqrt()
    return (1 - c) / (1 + sigma).square() + c


def denoising_loss(
    prediction: Tensor,
    wanted: Tensor,
    weights: Tensor,
    *,
    mask: Tensor | None = None,
    thresholds: Tensor | None = None,
) -> Tensor:
    """Weighted mean error in float32, whatever the precision of the forward pass.

    Squared error, or with ``thresholds`` pseudo-Huber ``2c (√(d² + c²) − c)``, which is ``d²`` for small differences
    ``d`` and ``2c |d|`` for large ones.

    Args:
        prediction: (N, C, H, W), any float dtype.
        wanted: as ``prediction``.
        weights: (N,) from :func:`loss_weights`.
        mask: (N, 1, H, W), multiplied onto the error of each position. The mean stays that over all positions: a mask
            of mean 1 keeps the scale of the loss, whatever share it leaves.
        thresholds: (N,) from :func:`huber_thresholds`.

    Returns:
        Scalar float32.
    """
    difference = prediction.float() - wanted.float()
    if thresholds is None:
        error = difference.square()
    else:
        c = thresholds.view(-1, *([1] * (difference.ndim - 1)))
        error = 2 * c * ((difference.square() + c.square()).sqrt() - c)
    if mask is not None:
        error = error * mask
    return (error.flatten(1).mean(1) * weights).mean()
