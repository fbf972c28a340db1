"""Randomness as a function of names: the same (seed, step, sample) gives the same numbers, whatever ran before.

No generator is carried from step to step, so nothing about randomness has to be saved: a resumed run draws what
the straight run would have drawn, and two half batches draw what one full batch draws.
"""

from collections.abc import Sequence
from hashlib import blake2b
from statistics import NormalDist

import torch
from torch import Tensor


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed that depends on ``seed`` and on every name, and on nothing else.

    Text and numbers are told apart and their borders kept: ``("a", 1)`` and ``("a1",)`` differ.
    """
    text = "\x1f".join([str(seed), *(f"{type(name).__name__}:{name}" for name in names)])
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator for ``names``; on the CPU always, so that a GPU run draws the same numbers."""
    return torch.Generator().manual_seed(derive(seed, *names))


def noise_for(seed: int, step: int, sample: int, shape: Sequence[int], *, purpose: str = "noise") -> Tensor:
    """Standard normal float32 of ``shape`` for one sample of one step.

    ``purpose`` keeps the uses apart: ``"noise"`` is the diffusion noise, ``"latent"`` the VAE's sampling.
    """
    return torch.randn(tuple(shape), generator=generator(seed, purpose, step, sample))


def timestep_for(seed: int, step: int, sample: int, *, num_timesteps: int = 1000) -> int:
    """Uniform timestep in [0, num_timesteps) for one sample of one step."""
    return derive(seed, "timestep", step, sample) % num_timesteps


def normal_time_for(seed: int, step: int, sample: int, *, mean: float = 0.0, std: float = 1.0) -> float:
    """Normal number whose sigmoid is the time of one sample of one step, as a share of the schedule.

    Source: Esser et al. 2024, arXiv:2403.03206, section 3.1.
    """
    chance = (derive(seed, "timestep", step, sample) + 0.5) / (1 << 63)
    # The last chances round to 1 in float64, where the inverse is infinite.
    return NormalDist(mean, std).inv_cdf(min(chance, 1.0 - 2.0**-53))


def chance_for(seed: int, step: int, sample: int, *, purpose: str) -> float:
    """Uniform number in [0, 1) for one sample of one step, e.g. ``purpose="flip"``."""
    return derive(seed, purpose, step, sample) / (1 << 63)


def order_for_epoch(seed: int, epoch: int, num_samples: int) -> Tensor:
    """Permutation of ``range(num_samples)`` in which one epoch shows its samples, (num_samples,) int64."""
    return torch.randperm(num_samples, generator=generator(seed, "order", epoch))
