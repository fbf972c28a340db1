"""Pixel differences on the 0–255 scale."""

import numpy as np
from numpy.typing import NDArray

from detour.errors import ShapeMismatch

Pictures = NDArray[np.uint8]
"""uint8 (N, H, W, 3), RGB."""

Figures = NDArray[np.float64]


def mean_abs_diff(first: Pictures, second: Pictures) -> float:
    """Mean absolute difference over all pixels and channels, in steps of 255.

    Args:
        first: uint8 (N, H, W, 3).
        second: uint8, same shape.

    Raises:
        ShapeMismatch: the shapes differ.
    """
    return float(_differences(first, second).mean())


def max_abs_diff(first: Pictures, second: Pictures) -> int:
    """Largest absolute difference of one channel of one pixel, in steps of 255; arguments as above."""
    return int(_differences(first, second).max(initial=0))


def black(pictures: Pictures) -> int:
    """Number of pictures that are black in every pixel, as pictures with NaN or infinite values are drawn.

    Args:
        pictures: uint8 (N, H, W, 3).
    """
    return int((~pictures.reshape(len(pictures), -1).any(1)).sum())


def noise_floor(plain: Pictures, switched_off: Pictures) -> float:
    """Pixel difference of two draws of the base without any adapter, which should be equal.

    The first is the plain base, the second the base with the adapter attached at weight zero, so that the
    floor holds the rounding of the adapted code path and whatever the device does not repeat. On a CPU in
    fp32 it is zero; in bf16 the same comparison gives 0.6, which is more than many adapters do.

    Args:
        plain: uint8 (N, H, W, 3).
        switched_off: uint8, same shape, same prompts, seeds and batch.

    Returns:
        mean absolute difference in steps of 255.
    """
    return mean_abs_diff(plain, switched_off)


def diversity(pictures: Pictures, *, seeds: int = 1) -> float:
    """Mean absolute difference of thumbnails over all pairs of different prompts, in steps of 255.

    Args:
        pictures: uint8 (prompts × seeds, H, W, 3), prompt-major.
        seeds: pictures of each prompt; those are no pair.

    Returns:
        0 where there is no pair.
    """
    thumbs = thumbnails(pictures)
    rows = [np.abs(thumbs[(i // seeds + 1) * seeds :] - thumbs[i]) for i in range(len(thumbs))]
    # Every pair counts alike: a mean of the rows' means would count the last picture's one pair as much as all of the
    # first one's.
    count = sum(row.size for row in rows)
    return float(sum(row.sum() for row in rows) / count) if count else 0.0


def thumbnails(pictures: Pictures, *, side: int = 16) -> Figures:
    """Box-filter pictures to ``side`` × ``side``: float64 (N, side, side, 3)."""
    count, height, width, _ = pictures.shape
    rows = np.arange(side) * height // side
    columns = np.arange(side) * width // side
    sums = np.add.reduceat(np.add.reduceat(pictures.astype(np.float64), rows, axis=1), columns, axis=2)
    heights = np.diff([*rows, height])[:, None, None]
    widths = np.diff([*columns, width])[None, :, None]
    small: Figures = sums / (heights * widths)
    assert small.shape == (count, side, side, 3)
    return small


def _differences(first: Pictures, second: Pictures) -> NDArray[np.int16]:
    if first.shape != second.shape:
        raise ShapeMismatch(f"pictures of shapes {first.shape} and {second.shape} cannot be compared.")
    difference: NDArray[np.int16] = np.abs(first.astype(np.int16) - second.astype(np.int16))
    return difference
