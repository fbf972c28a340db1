"""The detour itself: a frozen linear layer with a narrow trainable way beside it.

``h = W x + (alpha / rank) · up(down(x))``. ``down`` starts at random and ``up`` at zero, so the layer starts as the
frozen one. That is also why half of the parameters have no gradient in the first step: the gradient of ``down`` goes
through ``up``, which is zero. Nothing is wrong then; the second step moves both.
"""

import math

import torch
from torch import Tensor, nn


class LoraLinear(nn.Module):
    """A linear layer and its detour.

    Source: Hu et al. 2021, arXiv:2106.09685, section 4.1.
    """

    def __init__(self, frozen: nn.Linear, *, rank: int, alpha: float, seed: int = 0) -> None:
        """Freeze ``frozen`` and put a silent detour beside it.

        Args:
            frozen: the layer of the base; it keeps its bytes.
            rank: width of the detour; ``rank · (in + out)`` parameters are trained in place of ``in · out``.
            alpha: numerator of the scale. It is part of what was learned: a file read with another alpha is
                another adapter.
            seed: of ``down``.
        """
        super().__init__()
        self.frozen = frozen.requires_grad_(False)
        self.scale = alpha / rank
        generator = torch.Generator().manual_seed(seed)
        down = torch.empty(rank, frozen.in_features)
        nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)
        self.down = nn.Parameter(down)
        self.up = nn.Parameter(torch.zeros(frozen.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out). The detour is two thin products; their product is never made."""
        return self.frozen(x) + self.scale * (x @ self.down.T @ self.up.T)

    def merged(self) -> nn.Linear:
        """One plain linear layer that answers the same: the detour becomes part of the road."""
        layer = nn.Linear(
            self.frozen.in_features, self.frozen.out_features, bias=self.frozen.bias is not None
        )
        layer.weight.data = self.frozen.weight.data + self.scale * (self.up.data @ self.down.data)
        if self.frozen.bias is not None:
            layer.bias.data = self.frozen.bias.data.clone()
        return layer
