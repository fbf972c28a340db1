"""Drawing that begins with another picture: how much of it is kept, and where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from detour.bases.latents import encode_pictures, to_pixels
from detour.errors import ConfigError


@dataclass(frozen=True, kw_only=True, eq=False)
class StartPicture:
    """A picture that drawing begins with, noised to a part of the way, instead of pure noise.

    Attributes:
        pixels: uint8 (H, W, 3), of the size that is drawn.
        strength: share of the steps that are drawn, above 0 to 1: 1 keeps nothing, 0.3 keeps most.
        mask: uint8 (H, W), 255 where the picture is drawn anew and 0 where it stays to the pixel; values between blend.
            ``None`` draws all of it anew.
    """

    pixels: np.ndarray
    strength: float = 0.75
    mask: np.ndarray | None = None

    def check(self, width_px: int, height_px: int, steps: int, *, is_flow: bool) -> None:
        """Refuse what cannot be drawn.

        Raises:
            ConfigError: sizes that differ, or a strength that leaves no step.
        """
        shape = (height_px, width_px)
        if self.pixels.shape != (*shape, 3) or self.pixels.dtype != np.uint8:
            raise ConfigError(
                f"the picture to start from has shape {self.pixels.shape}, and {width_px}x{height_px} RGB is drawn."
            )
        if self.mask is not None and (self.mask.shape != shape or self.mask.dtype != np.uint8):
            raise ConfigError(f"the mask has shape {self.mask.shape}, and {width_px}x{height_px} is drawn.")
        if self.mask is not None and not (self.mask >= HALF).any():
            raise ConfigError("the mask leaves nothing to draw: white is drawn anew, black stays.")
        if not 0 < self.strength <= 1:
            raise ConfigError(f"strength {self.strength:g}: choose one above 0, up to 1.")
        if skipped_steps(steps, self.strength, is_flow=is_flow) >= steps:
            raise ConfigError(
                f"strength {self.strength:g} of {steps} steps leaves none to draw. Raise one of them."
            )


HALF = 128
"""Masks are drawn anew from this value on, where only one or the other can be."""


@dataclass(frozen=True, eq=False)
class Kept:
    """What holds the unmasked part of a picture to its original, step by step.

    Attributes:
        latents: (1, C, h, w) of the original.
        noise: (1, C, h, w) that the picture started with.
        mask: (1, 1, h, w) 1 where it is drawn anew.
    """

    latents: Tensor
    noise: Tensor
    mask: Tensor

    def held(self, drawn: Tensor, sampler: Any, time: Tensor | None) -> Tensor:
        """The latents with the original, as noisy as they are, outside the mask.

        Args:
            drawn: (1, C, h, w) after a step.
            sampler: that took the step.
            time: of the next step; ``None`` after the last one.
        """
        original = self.latents if time is None else noised(sampler, self.latents, self.noise, time)
        return (1 - self.mask) * original + self.mask * drawn


def skipped_steps(steps: int, strength: float, *, is_flow: bool) -> int:
    """Steps at the beginning that are not drawn.

    Source: diffusers 0.42.1, ``get_timesteps`` of the picture-to-picture pipelines, whose rounding differs between
    the UNet families and the rectified flows.
    """
    if is_flow:
        return int(max(steps - min(steps * strength, steps), 0))
    return max(steps - min(int(steps * strength), steps), 0)


def noised(sampler: Any, latents: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """(1, C, h, w) float32: latents with the noise that the sampler expects at a time."""
    at = time.reshape(1)
    if hasattr(sampler, "scale_noise"):  # Euler on a rectified flow
        result: Tensor = sampler.scale_noise(latents, at, noise)
    else:
        result = sampler.add_noise(latents, noise, at)
    return result


def encode_start(start: StartPicture, vae: Any, generator: torch.Generator, device: str) -> Tensor:
    """(1, C, h, w) float32 latents of the picture, drawn from what the autoencoder gives.

    Args:
        start: the picture.
        vae: of the base.
        generator: on the CPU; the first numbers it gives are these latents'.
        device: of the result.
    """
    mean, deviation = encode_pictures(vae, to_pixels(start.pixels[None]))
    draw = torch.randn(mean.shape, generator=generator)
    return (mean + deviation * draw.to(mean.device)).to(device, memory_format=torch.contiguous_format)


def latent_mask(mask: np.ndarray, height: int, width: int, device: str) -> Tensor:
    """(1, 1, h, w) float32: 1 at latent positions that are drawn anew, from the nearest pixel of the mask."""
    whole = torch.from_numpy((mask >= HALF).astype(np.float32))[None, None]
    return functional.interpolate(whole, size=(height, width)).to(device)


def pasted(drawn: np.ndarray, start: StartPicture) -> np.ndarray:
    """uint8 (H, W, 3): the drawn picture inside the mask, the original outside, blended where the mask is grey."""
    if start.mask is None:
        return drawn
    share = start.mask[..., None].astype(np.float32) / 255
    blended: np.ndarray = (share * drawn + (1 - share) * start.pixels).round().astype(np.uint8)
    return blended
