"""Pictures that are copies of each other although their bytes differ: encoded again, resized, brightened, mirrored."""

from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 32
NEAR_BITS = 6
"""Two hashes this near belong to copies. On pictures of the embedded base's world, which are simpler than photographs,
JPEG at quality 60, half the size and 15 % more light stay within 4 to 8 of the original, and one pair in 30,000 of
different pictures is as near (`tests/data/test_likeness.py`)."""


def perceptual_hash(image: Image.Image) -> NDArray[np.bool_]:
    """The 63 signs of a picture's lowest frequencies against their median, bool (63,).

    Source: the "pHash" of Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions", without
    its constant term: brightness is no likeness.
    """
    grey = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS), dtype=np.float64)
    cosine = _cosine_matrix()
    low = (cosine @ grey @ cosine.T)[:8, :8].ravel()[1:]
    signs: NDArray[np.bool_] = low > np.median(low)
    return signs


def mirrored_hash(image: Image.Image) -> NDArray[np.bool_]:
    """The hash of the picture as a mirror shows it."""
    return perceptual_hash(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))


def near_pairs(
    hashes: NDArray[np.bool_], others: NDArray[np.bool_] | None = None, *, near_bits: int = NEAR_BITS
) -> Iterator[tuple[int, int, int]]:
    """Pairs of hashes that differ in at most ``near_bits``.

    Args:
        hashes: bool (N, 63).
        others: bool (M, 63); ``None`` compares ``hashes`` among themselves, each pair once.
        near_bits: 0 to 63.

    Yields:
        (index in ``hashes``, index in ``others``, bits that differ), in the order of the indices.
    """
    second = hashes if others is None else others
    for first, signs in enumerate(hashes):
        differing = np.count_nonzero(second != signs, axis=1)
        for other in np.flatnonzero(differing <= near_bits):
            if others is not None or other > first:
                yield first, int(other), int(differing[other])


@cache
def _cosine_matrix() -> NDArray[np.float64]:
    """The orthonormal DCT-II of length 32."""
    places = np.arange(SIDE)
    matrix = np.cos(np.pi * (2 * places + 1) * places[:, None] / (2 * SIDE)) * np.sqrt(2 / SIDE)
    matrix[0] /= np.sqrt(2)
    return np.asarray(matrix)
