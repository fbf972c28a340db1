"""Distance of two pictures after one was cropped, shifted and mirrored so that it fits the other best.

A perceptual hash is lost when a tenth of the picture is cut off, and a CLIP judge calls two pictures of the same words
alike wherever things stand in them. A copy has the same edges at the same places, so edges are compared, at the place
where they fit best (``docs/memorisation.md`` has the measurements).
"""

import functools
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detour.evaluation.pixels import Pictures

SIDE = 64
"""Side in pixels to which pictures are resized before anything else."""
ALIGNED_SIDE = 24
"""Side in pixels at which pictures are compared: small enough to ignore the blur and noise of drawn copies."""
SMOOTH = 7
"""Window of the local mean that is subtracted twice, because skies and grounds look alike in different pictures."""
FLAT = 2.0
"""Smallest mean contrast of edges, in steps of 255, below which a picture cannot be recognised."""
CUTS = ((59, (0, 2, 5)), (54, (0, 2, 5, 8, 10)))
"""Sides and offsets of the square windows cut out of the 64 pixels: up to 16 % is cut off."""
SHIFT = 3
"""Pixels of the 64 by which the whole picture is shifted, with its edge repeated."""


def window_edges(originals: Pictures) -> list[Tensor]:
    """Edges of every window of the originals, to be used in several calls of :func:`laid_distances`.

    Args:
        originals: uint8 (M, H, W, 3).

    Returns:
        86 tensors, float32 (M, 1728): 0.6 MB an original.
    """
    return list(_edges_of_windows(_small(originals)))


def laid_distances(
    pictures: Pictures, originals: Pictures, *, windows: Sequence[Tensor] | None = None
) -> NDArray[np.float64]:
    """One minus the best correlation of edges over crops, shifts and the mirror image.

    Args:
        pictures: uint8 (N, H, W, 3).
        originals: uint8 (M, H', W', 3); windows are cut out of these.
        windows: :func:`window_edges` of the originals, where they are known; else they are computed here.

    Returns:
        float64 (N, M), 0 (the same edges) to 2; different pictures lie between 0.4 and 0.8.
    """
    mine = _edges(_scaled(_small(pictures), ALIGNED_SIDE))
    best = torch.full((len(pictures), len(originals)), -1.0)
    for edges in _edges_of_windows(_small(originals)) if windows is None else windows:
        best = torch.maximum(best, mine @ edges.T)
    distances: NDArray[np.float64] = (1 - best.double()).clamp_min(0).numpy()
    return distances


def own_distances(
    copies: Pictures, originals: Pictures, *, windows: Sequence[Tensor] | None = None
) -> NDArray[np.float64]:
    """Aligned distance of each picture to its own original alone.

    Args:
        copies: uint8 (K·M, H, W, 3), K times the originals in their order.
        originals: uint8 (M, H', W', 3).
        windows: :func:`window_edges` of the originals, where they are known.

    Returns:
        float64 (K, M).
    """
    mine = _edges(_scaled(_small(copies), ALIGNED_SIDE)).unflatten(0, (-1, len(originals)))
    best = torch.full(mine.shape[:2], -1.0)
    for edges in _edges_of_windows(_small(originals)) if windows is None else windows:
        best = torch.maximum(best, torch.einsum("kmd,md->km", mine, edges))
    distances: NDArray[np.float64] = (1 - best.double()).clamp_min(0).numpy()
    return distances


def _edges_of_windows(small: Tensor) -> Iterator[Tensor]:
    """Edges of every cut and shift of the pictures, and of each as a mirror shows it: (N, 3·ALIGNED_SIDE²)."""
    for window in _windows(small):
        edges = _edges(window)
        yield edges
        yield (
            edges.unflatten(1, (3, ALIGNED_SIDE, ALIGNED_SIDE)).flip(3).flatten(1)
        )  # a local mean is the same in a mirror


def _windows(small: Tensor) -> Iterator[Tensor]:
    """Every cut and shift of the pictures: (N, 3, ALIGNED_SIDE, ALIGNED_SIDE)."""
    wide = torch.nn.functional.pad(small, (SHIFT,) * 4, mode="replicate") if len(small) else small
    shifts = (0, SHIFT, 2 * SHIFT)
    places = [(SIDE, top, left) for top in shifts for left in shifts]
    places += [
        (side, SHIFT + top, SHIFT + left) for side, starts in CUTS for top in starts for left in starts
    ]
    for side, top, left in places:
        yield _scaled(wide[:, :, top : top + side, left : left + side], ALIGNED_SIDE)


def _small(pictures: Pictures) -> Tensor:
    """Resize uint8 (N, H, W, 3) to float32 (N, 3, SIDE, SIDE), a few at a time to bound the memory."""
    if not len(pictures):
        return torch.empty(0, 3, SIDE, SIDE)
    few = [
        _scaled(torch.from_numpy(np.array(pictures[start : start + 16])).permute(0, 3, 1, 2).float(), SIDE)
        for start in range(0, len(pictures), 16)
    ]
    return torch.cat(few)


def _scaled(pixels: Tensor, side: int) -> Tensor:
    if not len(pixels):
        return pixels.new_empty(0, 3, side, side)
    return torch.nn.functional.interpolate(
        pixels, (side, side), mode="bilinear", antialias=True, align_corners=False
    )


def _edges(pixels: Tensor) -> Tensor:
    """Pictures minus their local mean: (N, 3·ALIGNED_SIDE²), scaled to length one where there is enough contrast."""
    across = pixels @ _local_mean().T
    smooth = (across.transpose(2, 3) @ _local_mean().T).transpose(2, 3)
    edges = (pixels - smooth).flatten(2)
    edges = (edges - edges.mean(2, keepdim=True)).flatten(1)
    return edges / edges.norm(dim=1, keepdim=True).clamp_min(FLAT * edges.shape[1] ** 0.5)


@functools.cache
def _local_mean() -> Tensor:
    """Two passes of the mean over :data:`SMOOTH` neighbours in a row, the edge repeated, as a square matrix.

    The mean over a square is that over rows and then over columns: two small products, where pooling takes ten times
    as long.
    """
    once = torch.zeros(ALIGNED_SIDE, ALIGNED_SIDE, dtype=torch.float64)
    for place in range(ALIGNED_SIDE):
        for neighbour in range(place - SMOOTH // 2, place + SMOOTH // 2 + 1):
            once[place, min(max(neighbour, 0), ALIGNED_SIDE - 1)] += 1 / SMOOTH
    return (once @ once).float()
