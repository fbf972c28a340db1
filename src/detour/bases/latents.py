"""Pictures to latents and back, in the scale that the UNet sees."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from detour.errors import DetourError


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
    distribution = vae.encode(pixels.to(device=first.device, dtype=first.dtype)).latent_dist
    shift, scale = _shift_and_scale(vae)
    return (distribution.mean.float() - shift) * scale, distribution.std.float() * scale


@torch.no_grad()
def decode_latents(vae: Any, latents: Tensor) -> np.ndarray:
    """Pictures of scaled latents.

    Args:
        vae: an ``AutoencoderKL``.
        latents: (N, C, h, w), scaled, any float dtype.

    Returns:
        uint8 (N, H, W, 3), RGB.

    Raises:
        DetourError: the latents or what the VAE makes of them are not finite.
    """
    first = next(vae.parameters())
    shift, scale = _shift_and_scale(vae)
    pixels = vae.decode((latents / scale + shift).to(device=first.device, dtype=first.dtype)).sample
    if not torch.isfinite(pixels).all():
        raise DetourError(
            "the picture is not finite (NaN or infinite values, which other tools show as black). Use "
            "--dtype fp32, or a lower adapter weight."
        )
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
