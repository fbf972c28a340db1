"""Which time and which noise a sample is shown at a step, as pure functions of (seed, step, sample)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detour.diffusion.process import UNIFORM, Process, TimeLaw
from detour.diffusion.randomness import generator, noise_for


@dataclass(frozen=True, kw_only=True)
class NoisePlan:
    """How times and noise are drawn.

    Attributes:
        law: of the times.
        offset: size of a constant added to each channel of the noise. It lets the base learn that a picture's mean
            may move, which plain noise hides (Guttenberg 2023, "Diffusion with Offset Noise").
        perturbation: size of further noise that the network sees and is not asked for (γ of arXiv:2301.11706).
    """

    law: TimeLaw = UNIFORM
    offset: float = 0.0
    perturbation: float = 0.0

    def time(self, process: Process, seed: int, step: int, sample: int) -> float:
        """Time of one sample in the units of ``process``."""
        return process.draw_time(self.law, seed, step, sample)

    def noise(self, seed: int, step: int, sample: int, shape: Sequence[int]) -> Tensor:
        """Noise that the network is asked for, float32 of ``shape`` (C, H, W)."""
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
