"""Where the objects of the training pictures are, so that the loss can count their latents more.

Backgrounds repeat from picture to picture and are learned first; objects cover about a quarter of a picture
and are what prompts ask for.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detour.pocket.pretrain.parts import LATENT_SIZE
from detour.pocket.world import training_example
from detour.pocket.world.rendering import thing_body
from detour.pocket.world.scene import Scene

SAMPLES = 4  # points along each side of a latent's square
THING_WEIGHT = 5.0  # of a latent that an object covers, where one without any counts 1


def covered_shares(scene: Scene) -> NDArray[np.float32]:
    """The share of each latent's 8 × 8 pixels that an object of the scene covers, (16, 16) float32 in [0, 1].

    Styles that draw with a trembling hand move outlines by less than a latent's square.
    """
    side = LATENT_SIZE * SAMPLES
    centres = ((np.arange(side) + 0.5) / side).astype(np.float32)
    y, x = np.meshgrid(centres, centres, indexing="ij")
    inside = np.zeros((side, side), dtype=bool)
    for thing in scene.things:
        inside |= thing_body(thing, x, y) < 0
    return inside.reshape(LATENT_SIZE, SAMPLES, LATENT_SIZE, SAMPLES).mean(axis=(1, 3), dtype=np.float32)


def read_covered_shares(path: Path, *, seed: int, count: int) -> Tensor:
    """Shares of the first ``count`` pictures of the training stream, (count, 16, 16) float32.

    Computed once (a few seconds a thousand) and kept in ``path`` as float16.
    """
    if path.exists():
        kept = np.load(path)
        if len(kept) >= count:
            return torch.from_numpy(kept[:count].astype(np.float32))
    shares = np.stack([covered_shares(training_example(seed, index).scene) for index in range(count)])
    temporary = path.with_suffix(".part")
    with temporary.open("wb") as file:
        np.save(file, shares.astype(np.float16))
    temporary.replace(path)
    return torch.from_numpy(shares)


def latent_weights(shares: Tensor, *, mirrored: Tensor) -> Tensor:
    """Weights of the latents' errors with mean 1 over the batch: ``1 + (THING_WEIGHT − 1) share``, divided by its mean.

    Args:
        shares: (batch, 16, 16) float32 of :func:`covered_shares`.
        mirrored: (batch,) bool, whether a picture is shown as in a mirror.

    Returns:
        (batch, 1, 16, 16) float32.
    """
    shown = torch.where(mirrored[:, None, None], shares.flip(-1), shares)
    weights = 1 + (THING_WEIGHT - 1) * shown
    return (weights / weights.mean())[:, None]
