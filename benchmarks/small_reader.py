"""A small convolutional network that reads words in pictures; for measurements, never shown to the product."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from detour.bases.latents import to_pixels
from detour.files import write_with

SIDE = 64
"""Pixels a side that the reader sees."""
WIDTHS = (3, 24, 48, 96, 128)
BATCH = 64
UNKNOWN = -100
"""Target that PyTorch's cross-entropy leaves out."""

Heads = Mapping[str, Sequence[str]]
"""Name of what is read → the words it can be."""


class SmallReader(nn.Module):
    """Four convolutions and a linear layer for each thing that is read."""

    def __init__(self, heads: Heads) -> None:
        """Make it with random weights.

        Args:
            heads: what is read, and the words of each.
        """
        super().__init__()
        self.words = heads
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(WIDTHS):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Flatten())
        size = WIDTHS[-1] * (SIDE // 16) ** 2
        self.heads = nn.ModuleDict({name: nn.Linear(size, len(words)) for name, words in heads.items()})

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """(N, 3, side, side) from -1 to 1 → logits by head."""
        seen = self.body(pixels)
        return {name: head(seen) for name, head in self.heads.items()}

    @torch.no_grad()
    def read(self, pictures: np.ndarray) -> dict[str, list[str]]:
        """uint8 (N, H, W, 3) → word by head."""
        self.eval()
        answers = self(as_input(pictures))
        return {
            name: [self.words[name][int(place)] for place in logits.argmax(1)]
            for name, logits in answers.items()
        }

    def fit(self, pictures: np.ndarray, facts: Sequence[Mapping[str, str]], *, epochs: int) -> None:
        """Train on pictures and the words that are true of each, from a fixed seed.

        Pictures are mirrored, moved by up to four pixels, brightened and given some noise, each pass anew. A fact
        that is not there is not asked.
        """
        torch.manual_seed(0)
        seen = as_input(pictures)
        wanted = {
            name: torch.tensor([list(words).index(one[name]) if name in one else UNKNOWN for one in facts])
            for name, words in self.words.items()
        }
        optimizer = torch.optim.AdamW(self.parameters(), lr=2e-3, weight_decay=0.05)
        passes = epochs * -(-len(seen) // BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=passes)
        for _ in range(epochs):
            self.train()
            for places in torch.randperm(len(seen)).split(BATCH):
                answers = self(_varied(seen[places]))
                losses = [nn.functional.cross_entropy(answers[n], wanted[n][places]) for n in self.words]
                optimizer.zero_grad()
                torch.stack(losses).sum().backward()
                optimizer.step()
                schedule.step()

    def save(self, file: Path) -> None:
        """Write the weights."""
        write_with(file, lambda path: torch.save(self.state_dict(), path))

    def load(self, file: Path) -> None:
        """Read the weights back."""
        self.load_state_dict(torch.load(file, weights_only=True))


def as_input(pictures: np.ndarray) -> Tensor:
    """uint8 (N, H, W, 3) → (N, 3, side, side) from -1 to 1."""
    small = [np.asarray(Image.fromarray(p).resize((SIDE, SIDE), Image.Resampling.BOX)) for p in pictures]
    return to_pixels(np.stack(small))


def _varied(pixels: Tensor) -> Tensor:
    if torch.rand(()) < 0.5:
        pixels = pixels.flip(3)
    down, right = (int(one) for one in torch.randint(-4, 5, (2,)))
    pixels = torch.roll(pixels, (down, right), (2, 3))
    pixels = (
        pixels * (0.85 + 0.3 * torch.rand(len(pixels), 1, 1, 1))
        + 0.2 * torch.rand(len(pixels), 1, 1, 1)
        - 0.1
    )
    return pixels + 0.08 * torch.randn_like(pixels)
