"""An invisible mark: a key's pattern in the brightness of a picture, found again after crops, resizing and JPEG.

The method is that of Kalker, Depovere, Haitsma and Maes, "A video watermarking system for broadcast monitoring" (SPIE
3657, 1999): a pseudo-random tile is repeated over the picture and added to its brightness. To find it, the picture is
folded onto one tile, its spectrum is whitened, and correlated with the tile at every shift, so that a crop changes
nothing; sizes are tried one after the other. It says that somebody with this key marked the picture, and no more. It
does not survive rotation, mirroring, another ratio of the sides, or a model that draws the picture anew; whoever knows
the key can remove it, and somebody without it can with effort.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageFilter
from pydantic import BaseModel, ConfigDict

from detour.errors import ConfigError

TILE_PX = 64
CELL_PX = 2
"""Side of the squares of one sign in a tile; finer ones are lost to JPEG."""
LEVELS = 2.0
"""Change of brightness in steps of 255: 42 dB against the picture without the mark."""
FOUND = 1e-6
"""Probability under which a mark counts as found."""
SCALES = (0.5, 2.0)
"""Sizes that are tried, as ratios to the size that the picture was marked at."""
MAX_SIDE_PX = 1024
"""Longer pictures are read from their middle."""
MAX_KEY_CHARS = 200


class MarkReport(BaseModel):
    """Whether a key's mark is in a picture."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    is_found: bool
    probability: float
    """Probability that a picture without the mark comes so near to it, over all shifts and sizes that were tried."""
    scale: float
    """Size of the picture as a ratio to the size that it was marked at; where nothing is found, of the best try."""


def add_mark(pixels: np.ndarray, key: str, *, levels: float = LEVELS) -> np.ndarray:
    """Mark a picture; the same picture and key give the same bytes.

    Args:
        pixels: uint8 (H, W, 3).
        key: text that the mark is found by; whoever knows it can find and remove the mark.
        levels: change of brightness in steps of 255.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ConfigError: the key is empty or too long.
    """
    height, width = pixels.shape[:2]
    repeats = (math.ceil(height / TILE_PX), math.ceil(width / TILE_PX))
    pattern = np.tile(_tile(key), repeats)[:height, :width]
    changed = pixels.astype(np.float32) + (levels * pattern)[:, :, None]
    return np.clip(np.rint(changed), 0, 255).astype(np.uint8)


def find_mark(pixels: np.ndarray, key: str, *, any_scale: bool = True) -> MarkReport:
    """Look for a key's mark.

    Args:
        pixels: uint8 (H, W, 3).
        key: with which it was made.
        any_scale: try every size from half to twice that at which it may have been marked; else the size as it is
            alone, which is faster and misses a resized picture.

    Raises:
        ConfigError: the key is empty or too long.
    """
    tile = np.fft.fft2(_tile(key))
    image = Image.fromarray(_middle(_brightness(pixels)))
    scales = list(_scales(image.size)) if any_scale else [1.0]
    best, at = -math.inf, 1.0
    for scale in scales:
        score = _score(image, scale, tile)
        if score > best:
            best, at = score, scale
    # Scores of a picture without the mark are normal; there is one for each shift of each size.
    probability = min(1.0, len(scales) * TILE_PX**2 * 0.5 * math.erfc(best / math.sqrt(2)))
    return MarkReport(is_found=probability < FOUND, probability=probability, scale=at)


def fingerprint(key: str) -> str:
    """Name of a key that does not tell it: the first 16 digits of a SHA-256."""
    return hashlib.sha256(f"detour mark {key}".encode()).hexdigest()[:16]


def _tile(key: str) -> np.ndarray:
    """Pattern of a key, float32 (64, 64), of +1 and −1 in squares, as many of one as of the other."""
    if not 1 <= len(key) <= MAX_KEY_CHARS:
        raise ConfigError(f"the mark's key has {len(key)} characters: choose 1 to {MAX_KEY_CHARS}.")
    num = TILE_PX // CELL_PX
    draw = np.random.default_rng(list(hashlib.sha256(key.encode()).digest()))
    signs = draw.permutation(np.repeat([1.0, -1.0], num * num // 2)).reshape(num, num)
    return np.kron(signs, np.ones((CELL_PX, CELL_PX))).astype(np.float32)


def _brightness(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).convert("L"))


def _detail(grey: np.ndarray) -> np.ndarray:
    """What differs from its surroundings, float32 (H, W), without the strongest edges."""
    blurred = np.asarray(Image.fromarray(grey).filter(ImageFilter.GaussianBlur(2)), np.float32)
    return np.clip(grey.astype(np.float32) - blurred, -12, 12)


def _middle(grey: np.ndarray) -> np.ndarray:
    top, left = (max(0, (side - MAX_SIDE_PX) // 2) for side in grey.shape)
    return grey[top : top + MAX_SIDE_PX, left : left + MAX_SIDE_PX]


def _scales(size: tuple[int, int]) -> Iterator[float]:
    """Sizes to try, as ratios to the marked size; neighbours differ by two pixels of the longer side."""
    yield 1.0
    step = 1 + 2 / max(size)
    for bound, ratio in ((SCALES[1], step), (SCALES[0], 1 / step)):
        scale = ratio
        while min(scale, 1 / scale) >= min(bound, 1 / bound):
            yield scale
            scale *= ratio


def _score(image: Image.Image, scale: float, tile: np.ndarray) -> float:
    """Largest correlation with the tile over all shifts, in standard deviations of what chance gives."""
    size = (max(1, round(image.width / scale)), max(1, round(image.height / scale)))
    sized = image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)
    detail = _detail(np.asarray(sized))
    padding = [(0, -side % TILE_PX) for side in detail.shape]
    padded = np.pad(detail, padding)
    folded = padded.reshape(padded.shape[0] // TILE_PX, TILE_PX, -1, TILE_PX).sum((0, 2))
    spectrum = np.fft.fft2(folded)
    white = spectrum / np.maximum(np.abs(spectrum), 1e-9)
    scores = np.fft.ifft2(white * np.conj(tile)).real
    return float(scores.max() / (np.sqrt((np.abs(tile) ** 2).sum()) / TILE_PX**2))
