"""Trains the VAE on crops and whole frames, and the decoder further on its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor

from detour.pocket.pretrain.precision import autocast

KL_WEIGHT = 3e-4


def to_model_range(pictures: NDArray[np.uint8]) -> Tensor:
    """Convert (batch, height, width, 3) bytes to (batch, 3, height, width) float32 in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1.0)


def draw_pictures(
    pictures: NDArray[np.uint8], *, count: int, crop_px: int, generator: torch.Generator
) -> Tensor:
    """Choose random crops, half of them flipped.

    Args:
        pictures: (number, height, width, 3).
        count: of crops.
        crop_px: side of the crop; the picture's own side takes whole frames.
        generator: decides.

    Returns:
        (count, 3, crop_px, crop_px) float32 in [-1, 1].
    """
    free = pictures.shape[1] - crop_px
    which = torch.randint(len(pictures), (count,), generator=generator).tolist()
    tops = torch.randint(free // 8 + 1, (count, 2), generator=generator).mul(8).tolist()
    flips = torch.rand(count, generator=generator).lt(0.5).tolist()
    crops = []
    for index, (top, left), flip in zip(which, tops, flips, strict=True):
        crop = pictures[index, top : top + crop_px, left : left + crop_px]
        crops.append(crop[:, ::-1] if flip else crop)
    return to_model_range(np.stack(crops))


def reconstruction_loss(made: Tensor, true: Tensor) -> Tensor:
    """Loss of a reconstruction: Charbonnier, edges and coarse colour, all in the range [-1, 1].

    Args:
        made: (batch, 3, height, width).
        true: same shape.

    Returns:
        scalar.
    """
    difference = made - true
    pixels = (difference.square() + 1e-4).sqrt().mean() + difference.square().mean()
    edges = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
    coarse = F.avg_pool2d(difference, 8).abs().mean()
    return pixels + 0.5 * edges + coarse


def autoencoder_loss(
    vae: AutoencoderKL, pictures: Tensor, generator: torch.Generator
) -> tuple[Tensor, Mapping[str, float]]:
    """Reconstruction from sampled latents plus a small pull of the latents towards a unit normal.

    Args:
        vae: in training mode.
        pictures: (batch, 3, height, width) in [-1, 1].
        generator: of the latent noise.

    Returns:
        scalar loss and figures for the log.
    """
    with autocast():
        posterior = vae.encode(pictures).latent_dist
        mean, log_variance = posterior.mean.float(), posterior.logvar.float()
        noise = torch.randn(mean.shape, generator=generator)
        made = vae.decode(mean + (0.5 * log_variance).exp() * noise).sample.float()
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    loss = reconstruction_loss(made, pictures) + KL_WEIGHT * divergence
    with torch.no_grad():
        figures = {
            "mse": float((made - pictures).square().mean()),
            "mae255": float((made - pictures).abs().mean() * 127.5),
            "latent_std": float(mean.std()),
            "posterior_std": float((0.5 * log_variance).exp().mean()),
        }
    return loss, figures


def decoder_loss(vae: AutoencoderKL, pictures: Tensor, latents: Tensor) -> tuple[Tensor, Mapping[str, float]]:
    """Reconstruction alone, from given latents: the encoder is frozen.

    Args:
        vae: its decoder is in training mode.
        pictures: (batch, 3, height, width) in [-1, 1].
        latents: (batch, channels, height / 8, width / 8), not scaled.
    """
    with autocast():
        made = vae.decode(latents).sample.float()
    loss = reconstruction_loss(made, pictures)
    with torch.no_grad():
        figures = {"mae255": float((made - pictures).abs().mean() * 127.5)}
    return loss, figures


def encode_moments(vae: AutoencoderKL, pictures: NDArray[np.uint8]) -> NDArray[np.float16]:
    """Means and standard deviations of the latents.

    Args:
        vae: in evaluation mode.
        pictures: (batch, height, width, 3).

    Returns:
        (batch, 2 · channels, height / 8, width / 8): the means of all channels, then their standard deviations.
    """
    with torch.no_grad(), autocast():
        posterior = vae.encode(to_model_range(pictures)).latent_dist
    moments = torch.cat([posterior.mean.float(), posterior.std.float()], dim=1)
    array: NDArray[np.float16] = moments.numpy().astype(np.float16)
    return array


def latent_statistics(vae: AutoencoderKL, pictures: NDArray[np.uint8]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each latent channel as drawn from the posterior.

    Args:
        vae: in evaluation mode.
        pictures: (number, height, width, 3).
    """
    moments = np.concatenate([encode_moments(vae, pictures[i : i + 64]) for i in range(0, len(pictures), 64)])
    means, deviations = np.split(moments.astype(np.float64), 2, axis=1)
    variance = means.var(axis=(0, 2, 3)) + np.square(deviations).mean(axis=(0, 2, 3))
    return means.mean(axis=(0, 2, 3)).tolist(), np.sqrt(variance).tolist()


@torch.no_grad()
def standardise(vae: AutoencoderKL, means: Sequence[float], deviations: Sequence[float]) -> None:
    """Moves each latent channel to mean zero and deviation one; pictures stay what they were.

    The pipelines know one scaling factor for all channels and no shift. The two 1×1 convolutions around the
    latents take the rest, in place.

    Args:
        vae: changed in place.
        means: of each channel, from :func:`latent_statistics`.
        deviations: of each channel.
    """
    mean, deviation = torch.tensor(means), torch.tensor(deviations)
    inner, outer = vae.quant_conv, vae.post_quant_conv
    channels = len(mean)
    inner.weight[:channels] /= deviation[:, None, None, None]
    inner.bias[:channels] = (inner.bias[:channels] - mean) / deviation
    inner.bias[channels:] -= 2 * deviation.log()
    outer.bias += outer.weight[:, :, 0, 0] @ mean
    outer.weight *= deviation[None, :, None, None]
