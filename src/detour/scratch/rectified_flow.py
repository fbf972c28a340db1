"""Rectified flow: a straight road from picture to noise, and the way back along the velocity.

Training mixes ``x = (1 − σ) x₀ + σ ε`` and asks for the velocity ``ε − x₀``, which is the same all along the road. The
network cannot know x₀, so it answers the mean of all velocities that pass through x at σ, and the roads it draws bend a
little: that is why drawing takes more than one step.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor

Velocity = Callable[[Tensor, float], Tensor]
"""(noisy latents, noise level) → velocity."""


def noisy_and_target(clean: Tensor, noise: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """What the network is shown in training, and what it should answer; any shape.

    Args:
        clean: latents of a picture.
        noise: standard normal.
        sigma: noise level; 0 is the picture, 1 noise alone.

    Source: Liu et al. 2022, arXiv:2209.03003, equation 1.
    """
    return (1 - sigma) * clean + sigma * noise, noise - clean


def clean_guess(noisy: Tensor, velocity: Tensor, sigma: float) -> Tensor:
    """The picture that a velocity points back to: ``x − σ v``. An error of v counts σ times here, σ² times squared."""
    return noisy - sigma * velocity


def levels(steps: int, shift: float) -> list[float]:
    """Noise levels from 1 to 0: even ones, moved towards noise: ``s σ / (1 + (s − 1) σ)``.

    A large picture needs more noise to be hidden as well as a small one: neighbouring latents say the same thing.

    Source: Esser et al. 2024, arXiv:2403.03206, equation 23.
    """
    even = [1 - step / steps for step in range(steps + 1)]
    return [shift * sigma / (1 + (shift - 1) * sigma) for sigma in even]


def sample(velocity: Velocity, start: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Draw a picture from noise by Euler's steps along the velocity.

    Args:
        velocity: the network with its text.
        start: standard normal.
        sigmas: falling, from :func:`levels`.
    """
    x = start
    for sigma, sigma_next in pairwise(sigmas):
        x = x + (sigma_next - sigma) * velocity(x, sigma)
    return x
