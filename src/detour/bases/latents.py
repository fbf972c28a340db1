"""Pictures to latents and back, in the scale that the UNet sees."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from detour.errors import PictureNotFinite

PIXELS_IN_PASS = 4 * 256 * 256
"""Pixels in one pass of the VAE: four pictures of SD 1.5 at once take 2.5 GiB to encode, a quarter one by one."""


NOT_FINITE = (
    "the picture is not finite (NaN or infinite values, which other tools show as black). Use --dtype fp32, or a "
    "lower adapter weight."
)
"""What is said of a picture with values that no file can hold."""


def pictures_in_pass(width_px: int, height_px: int) -> int:
    """How many pictures the VAE is given at once; a function of their size alone, since it is part of the bytes."""
    return max(1, PIXELS_IN_PASS // (width_px * height_px))


@torch.no_grad()
def encode_pictures(vae: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the pictures' latents, scaled.

    A training step draws ``mean + std * ε``; keeping both lets a cache stay random.

    Args:
        vae: an ``AutoencoderKL``.
        pixels: (N, 3, H, W) in [-1, 1].

    Returns:
        Two tensors (N, C, H / f, W / f), fp32 on the VAE's device.
    """
    first = next(vae.parameters())
    shift, scale = _shift_and_scale(vae)
    means, stds = [], []
    for few in pixels.split(pictures_in_pass(pixels.shape[-1], pixels.shape[-2])):
        distribution = vae.encode(few.to(device=first.device, dtype=first.dtype)).latent_dist
        means.append((distribution.mean.float() - shift) * scale)
        stds.append(distribution.std.float() * scale)
    return torch.cat(means), torch.cat(stds)


@torch.no_grad()
def decode_latents(vae: Any, latents: Tensor) -> np.ndarray:
    """Decode scaled latents into pictures.

    Args:
        vae: an ``AutoencoderKL``.
        latents: (N, C, h, w), scaled, any float dtype.

    Returns:
        uint8 (N, H, W, 3), RGB.

    Raises:
        PictureNotFinite: the latents or what the VAE makes of them are not finite.
    """
    first = next(vae.parameters())
    shift, scale = _shift_and_scale(vae)
    scaled = (latents / scale + shift).to(device=first.device, dtype=first.dtype)
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    num = pictures_in_pass(scaled.shape[-1] * factor, scaled.shape[-2] * factor)
    pixels = torch.cat([vae.decode(few).sample for few in scaled.split(num)])
    if not torch.isfinite(pixels).all():
        raise PictureNotFinite(NOT_FINITE)
    return to_uint8(pixels)


def to_uint8(pixels: Tensor) -> np.ndarray:
    """[-1, 1] (N, 3, H, W) → uint8 (N, H, W, 3), rounded as diffusers does."""
    unit = (pixels / 2 + 0.5).clamp(0, 1)
    array: np.ndarray = unit.permute(0, 2, 3, 1).float().cpu().numpy()
    return (array * 255).round().astype(np.uint8)


def to_pixels(pictures: np.ndarray) -> Tensor:
    """uint8 (N, H, W, 3) → fp32 [-1, 1] (N, 3, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def _shift_and_scale(vae: Any) -> tuple[float, float]:
    shift = getattr(vae.config, "shift_factor", None)
    return float(shift or 0.0), float(vae.config.scaling_factor)
