"""How a UNet is told the timestep: one number becomes a vector of waves, and a small network reads the vector.

A network is bad at reading "812" from one input: neighbouring timesteps must look alike and distant ones must not. So
the number is written like the hands of many clocks, of which the first turns once in 6 steps and the last once in
60,000: near timesteps differ in the fast hands alone, far ones in the slow ones too.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

SLOWEST = 10_000.0
"""The last clock turns this many times slower than the first one."""


def waves(timesteps: Tensor, width: int) -> Tensor:
    """Cosines of every clock, then their sines.

    Clock i of n turns with the speed ``10000^(−i/n)``. Stable Diffusion puts the cosines first
    (``flip_sin_to_cos``) and lets the last clock stop short of 1/10000 (``freq_shift`` 0); the paper does neither.

    Args:
        timesteps: (N,), any dtype.
        width: of the vector, even; 320 in SD 1.5.

    Returns:
        (N, width) float32, each number between -1 and 1.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5; for timesteps Ho et al. 2020, arXiv:2006.11239.
    """
    num_clocks = width // 2
    speeds = torch.exp(-math.log(SLOWEST) * torch.arange(num_clocks, dtype=torch.float32) / num_clocks)
    angles = timesteps.float()[:, None] * speeds[None, :]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def read_waves(vector: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """The two linear layers that make an embedding of the waves; every block of the UNet is given it.

    Args:
        vector: (N, width) from :func:`waves`.
        weights: of a UNet's ``time_embedding``, by the names that files use: ``linear_1.weight`` and so on.

    Returns:
        (N, 4 · width) as SD has it.
    """
    hidden = silu(linear(vector, weights["linear_1.weight"], weights["linear_1.bias"]))
    return linear(hidden, weights["linear_2.weight"], weights["linear_2.bias"])
