"""Features of length one, drawn from a seed."""

import torch
from torch import Tensor


def looks(count: int, seed: int, *, shift: float = 0.0, width: int = 16) -> Tensor:
    """(count, width) directions; ``shift`` moves all of them along the first axis."""
    drawn = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    drawn[:, 0] += shift
    return torch.nn.functional.normalize(drawn, dim=-1)
