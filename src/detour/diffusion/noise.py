"""Which timestep and which noise a sample is shown at a step, as pure functions of (seed, step, sample)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from detour.diffusion.randomness import generator, logit_normal_timestep_for, noise_for, timestep_for

TimestepLaw = Literal["uniform", "logit_normal"]


@dataclass(frozen=True, kw_only=True)
class NoisePlan:
    """How timesteps and noise are drawn.

    Attributes:
        timesteps: every timestep alike, or more of those around the middle.
        logit_mean: of the logit-normal law; above 0 prefers noisy timesteps.
        logit_std: its width; smaller is narrower.
        offset: size of a constant added to each channel of the noise. It lets the base learn that a picture's mean
            may move, which plain noise hides (Guttenberg 2023, "Diffusion with Offset Noise").
        perturbation: size of further noise that the UNet sees and is not asked for (γ of arXiv:2301.11706).
    """

    timesteps: TimestepLaw = "uniform"
    logit_mean: float = 0.0
    logit_std: float = 1.0
    offset: float = 0.0
    perturbation: float = 0.0

    def timestep(self, seed: int, step: int, sample: int, *, num_timesteps: int) -> int:
        """In [0, num_timesteps)."""
        if self.timesteps == "uniform":
            return timestep_for(seed, step, sample, num_timesteps=num_timesteps)
        return logit_normal_timestep_for(
            seed, step, sample, mean=self.logit_mean, std=self.logit_std, num_timesteps=num_timesteps
        )

    def noise(self, seed: int, step: int, sample: int, shape: Sequence[int]) -> Tensor:
        """What the UNet is asked for, float32 of ``shape`` (C, H, W)."""
        noise = noise_for(seed, step, sample, shape)
        if not self.offset:
            return noise
        constant = torch.randn((shape[0], 1, 1), generator=generator(seed, "noise-offset", step, sample))
        return noise + self.offset * constant

    def seen(self, seed: int, step: int, sample: int, noise: Tensor) -> Tensor:
        """What is put on the latents in place of ``noise``, which stays the target.

        Source: Ning et al. 2023, arXiv:2301.11706, algorithm 1.
        """
        if not self.perturbation:
            return noise
        further = noise_for(seed, step, sample, tuple(noise.shape), purpose="perturbation")
        return noise + self.perturbation * further


PLAIN_NOISE = NoisePlan()
"""Every timestep alike, standard normal noise."""
