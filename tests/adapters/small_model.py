"""A network with every kind of layer that adapters sit on, small enough to differentiate in milliseconds."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detour.adapters.adapter import Adapter, LoraLayer


@dataclass(frozen=True)
class At:
    """A place to adapt; attaching reads the path only."""

    path: str


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_q = nn.Linear(8, 8, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(8, 6), nn.Dropout(0.0)])

    def forward(self, x: Tensor) -> Tensor:
        return self.to_out[0](torch.tanh(self.to_q(x)))


class SmallModel(nn.Module):
    """(N, 3, 8, 8) → (N, 16, 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.proj_in = nn.Conv2d(8, 8, 1)
        self.blocks = nn.ModuleList([Block()])

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj_in(torch.tanh(self.conv_in(x)))
        return self.blocks[0](x.flatten(2).transpose(1, 2))


PATHS = ("conv_in", "proj_in", "blocks.0.to_q", "blocks.0.to_out.0")
LAYERS = [At(path) for path in PATHS]


def small_model(seed: int = 0) -> SmallModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SmallModel().eval().requires_grad_(False)


def small_input(seed: int = 1) -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def random_adapter(seed: int = 2, *, size: float = 0.3) -> Adapter:
    """Different ranks and alphas, no factor zero."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return size * torch.randn(shape, generator=generator)

    return Adapter(
        {
            "unet.conv_in": LoraLayer(down=random(2, 3, 3, 3), up=random(8, 2, 1, 1), alpha=1.0),
            "unet.proj_in": LoraLayer(down=random(4, 8, 1, 1), up=random(8, 4, 1, 1), alpha=16.0),
            "unet.blocks.0.to_q": LoraLayer(down=random(4, 8), up=random(8, 4), alpha=4.0),
            "unet.blocks.0.to_out.0": LoraLayer(down=random(3, 8), up=random(6, 3), alpha=2.5),
        }
    )
