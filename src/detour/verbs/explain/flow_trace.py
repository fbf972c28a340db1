"""The forward process of a rectified flow on one picture: in one jump, along the straight line, and the way back."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from detour.bases.denoiser import Denoiser
from detour.bases.text import Conditioning
from detour.diffusion.process import RectifiedFlow
from detour.diffusion.randomness import noise_for

STEPS = 1000
"""Steps of the walk, as many as a base of this kind has timesteps."""

STEPS_BETWEEN_LEVELS = 4
"""Steps of the way back from one level to the next."""


def walk_and_jump(clean: Tensor, stops: Tensor, seed: int) -> tuple[list[Tensor], list[float]]:
    """Walk from clean latents to noise along their velocity, and compare with the jump ``(1 − σ) x₀ + σ ε``.

    Args:
        clean: (1, C, h, w).
        stops: (levels,) steps after which the walk is shown, rising, below :data:`STEPS`.
        seed: of the noise.

    Returns:
        Latents (1, C, h, w) float32 after each stop, and how far the jump lands from each.
    """
    process, wide = RectifiedFlow(), clean.double()
    noise = noise_for(seed, 0, 0, clean.shape[1:], purpose="forward").double()[None]
    velocity = process.velocity_of(wide, noise, torch.zeros(1))
    kept, now = {int(stop) for stop in stops}, wide
    walked, differences = [], []
    for step in range(STEPS):
        now = now + velocity / STEPS
        if step in kept:
            sigma = level_of(step)
            differences.append(float((now - ((1 - sigma) * wide + sigma * noise)).abs().max()))
            walked.append(now.float())
    return walked, differences


def level_of(step: int) -> float:
    """Noise level σ after a step of the walk, counted from 0."""
    return (step + 1) / STEPS


@torch.no_grad()
def way_back(
    denoiser: Denoiser, walked: list[Tensor], text: Conditioning, stops: Tensor
) -> dict[int, Tensor]:
    """Index of a level → latents (1, C, h, w) there, by Euler's steps along the network's velocity, without guidance.

    Args:
        denoiser: the plain base, a rectified flow.
        walked: latents of each level; the way begins at the last one.
        text: of the caption.
        stops: (levels,) as in :func:`walk_and_jump`.
    """
    process, last = denoiser.process, len(stops) - 1
    noisy = walked[last].to(denoiser.device)
    reached = {last: noisy}
    for index in reversed(range(last)):
        first, end = (level_of(int(stop)) for stop in (stops[index + 1], stops[index]))
        path = torch.linspace(first, end, STEPS_BETWEEN_LEVELS + 1).tolist()
        for sigma, sigma_next in itertools.pairwise(path):
            times = process.times([sigma]).to(denoiser.device)
            noisy = noisy + (sigma_next - sigma) * denoiser.predict(noisy, times, text).float()
        reached[index] = noisy
    return reached
