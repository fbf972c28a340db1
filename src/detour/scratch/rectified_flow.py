"""The straight way from noise to a picture, which Stable Diffusion 3 and Flux learn instead of the noise itself.

Picture and noise are the ends of a line, and σ says how far towards the noise a point lies. Everywhere on the line the
velocity is the same, ``noise − picture``: that is what the transformer is taught. Drawing starts at σ = 1 and walks
against the velocity. The transformer does not know a straight line, only the mean of all lines through a point, so the
walk bends and needs some twenty steps.

Three words mean something else elsewhere. A timestep is ``1000 σ``, so a larger one means *more* noise. The shift moves
steps towards the noise, where a larger picture decides its composition. And there is no ᾱ: the two shares of a point
add up to one, not their squares.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(point, timestep) → the velocity there, of the point's shape."""


def on_the_line(clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """The point at noise level ``sigma`` in [0, 1], any shape: ``(1 − σ) x + σ ε``.

    Source: Liu et al. 2022, arXiv:2209.03003, equation 1, with the noise at σ = 1.
    """
    return (1 - sigma) * clean + sigma * noise


def velocity(clean: Tensor, noise: Tensor) -> Tensor:
    """What the transformer is taught at every point of the line, any shape: ``ε − x``."""
    return noise - clean


def clean_guess(point: Tensor, velocity_pred: Tensor, sigma: Tensor) -> Tensor:
    """The picture at the end of the line, if the velocity were right, any shape: ``x_σ − σ v``.

    A loss on this guess is σ² times the loss on the velocity, which leaves little to learn where there is little noise.
    """
    return point - sigma * velocity_pred


def shifted(sigma: Tensor, shift: float) -> Tensor:
    """The noise level after the shift, any shape; 0 and 1 stay, and with a shift of 3 one half becomes three quarters.

    Source: Esser et al. 2024, arXiv:2403.03206, equation 23.
    """
    return shift * sigma / (1 + (shift - 1) * sigma)


def levels(num_steps: int, *, shift: float = 1.0) -> Tensor:
    """The noise levels of a walk, (num_steps + 1,) float32: from 1 down, and 0 at the end.

    diffusers ends its even spacing at the smallest level that training knows, which it shifts once when the scheduler
    is made and once more with the others; so does this.
    """
    smallest = float(shifted(torch.tensor(1 / 1000, dtype=torch.float64), shift))
    even = torch.linspace(1.0, smallest, num_steps, dtype=torch.float64)
    return torch.cat([shifted(even, shift), torch.zeros(1)]).float()


def step(point: Tensor, velocity_pred: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """One step of Euler's method, any shape: along the velocity from one noise level to the next, smaller one."""
    return point + (sigma_next - sigma) * velocity_pred


def sample(model: Velocity, start: Tensor, *, num_steps: int, shift: float = 1.0) -> Tensor:
    """From noise to a picture.

    Args:
        model: the transformer with its text.
        start: standard normal.
        num_steps: number of times the model is asked.
        shift: 3 for Stable Diffusion 3; for Flux it grows with the picture.
    """
    sigmas = levels(num_steps, shift=shift)
    point = start
    for sigma, sigma_next in pairwise(sigmas):
        point = step(point, model(point, 1000 * sigma), sigma, sigma_next)
    return point
