"""Which part of a picture is trained on, and at which size: a square, or the bucket of nearest shape."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from detour.data.folder import Example
from detour.errors import DataError

MAX_ASPECT = 4
"""Longest bucket: twice the resolution by half of it. What is longer is cut."""

CODE_VERSION = 2
"""Version of what decoding and :meth:`Frame.cut` make of a file; raised whenever that changes, so that no
cache outlives it."""


@dataclass(frozen=True)
class Frame:
    """A part of an upright picture, scaled to ``size_px`` with Lanczos.

    Attributes:
        source_px: (width, height) of the picture.
        size_px: (width, height) that is trained on.
        centering: (x, y) in [0, 1]: how much of what is cut away lies to the left and above.
    """

    source_px: tuple[int, int]
    size_px: tuple[int, int]
    centering: tuple[float, float] = (0.5, 0.5)

    @property
    def scale(self) -> float:
        """Factor on the picture's sides; above 1 it is enlarged."""
        return max(size / source for size, source in zip(self.size_px, self.source_px, strict=True))

    @property
    def kept(self) -> float:
        """Share of the picture's area that is trained on, at most 1."""
        width, height = self.size_px
        return min(1.0, width * height / (self.scale**2 * self.source_px[0] * self.source_px[1]))

    def cut(self, image: Image.Image) -> NDArray[np.uint8]:
        """(height, width, 3) uint8 of an RGB picture of ``source_px``."""
        fitted = ImageOps.fit(image, self.size_px, Image.Resampling.LANCZOS, centering=self.centering)
        return np.array(fitted, dtype=np.uint8)

    def cut_mask(self, mask: Image.Image, factor: int) -> NDArray[np.float32]:
        """Cut a mask as the picture is cut, averaged over the area of each latent position.

        Args:
            mask: one channel, 0 to 255, of ``source_px``.
            factor: pixels a latent position.

        Returns:
            (height / factor, width / factor) in [0, 1].
        """
        width, height = self.size_px
        small = (width // factor, height // factor)
        fitted = ImageOps.fit(mask.convert("F"), small, Image.Resampling.BOX, centering=self.centering)
        return np.clip(np.array(fitted, dtype=np.float32) / 255, 0, 1)

    def size_ids(self, *, mirrored: bool) -> tuple[int, int, int, int, int, int]:
        """What SDXL is told: original height and width, top and left of the crop, height and width.

        The corner is counted in the scaled picture, which is mirrored before it is cut.

        Source: Podell et al. 2023, arXiv:2307.01952, section 2.2.
        """
        width, height = self.size_px
        spare_x, spare_y = (
            max(round(source * self.scale) - size, 0)
            for source, size in zip(self.source_px, self.size_px, strict=True)
        )
        left, top = round(spare_x * self.centering[0]), round(spare_y * self.centering[1])
        return (
            self.source_px[1],
            self.source_px[0],
            top,
            spare_x - left if mirrored else left,
            height,
            width,
        )


@dataclass(frozen=True, kw_only=True)
class Framing:
    """How all pictures of a run are framed.

    Attributes:
        resolution_px: side of a square, and the root of a bucket's area.
        step_px: sides of buckets are multiples of it; 0: no buckets, every picture becomes a square.
        crops: how many places of the crop there are to choose from; 0: the centre alone.
        upscale: enlarge pictures that are smaller than their bucket.
    """

    resolution_px: int
    step_px: int = 0
    crops: int = 0
    upscale: bool = False

    def frames(self, example: Example, *, crops: bool = True) -> tuple[Frame, ...]:
        """The parts of a picture that are trained on, all of one size.

        Args:
            example: whose ``sha256`` draws where random crops lie.
            crops: False: the centre alone.

        Raises:
            DataError: the picture is smaller than the smallest bucket.
        """
        centre = Frame(example.size_px, self._size_of(example))
        spare = abs(Fraction(*example.size_px) - Fraction(*centre.size_px))
        if not crops or not self.crops or not spare:
            return (centre,)  # nothing is cut away, so there is one place alone
        places = (_place(example.sha256, number, self.crops) for number in range(self.crops))
        return tuple(Frame(centre.source_px, centre.size_px, place) for place in places)

    def _size_of(self, example: Example) -> tuple[int, int]:
        side = self.resolution_px
        if not self.step_px:
            return side, side
        size = nearest_bucket(example.size_px, bucket_sizes(side, self.step_px))
        if self.upscale or Frame(example.size_px, size).scale <= 1:
            return size
        width, height = (length // self.step_px * self.step_px for length in example.size_px)
        least = smallest_side(side, self.step_px)
        if min(width, height) < least:
            raise DataError(
                f"{example.name}: {example.size_px[0]} × {example.size_px[1]} px, smaller than the smallest bucket "
                f"({least} px a side). Use a larger picture, or enlarge it: --set data.upscale=true."
            )
        return min(width, MAX_ASPECT * height), min(height, MAX_ASPECT * width)


def smallest_side(resolution_px: int, step_px: int) -> int:
    """Find the smallest side of any bucket: half the resolution, on the grid."""
    return max(step_px, resolution_px // 2 // step_px * step_px)


def bucket_sizes(resolution_px: int, step_px: int) -> list[tuple[int, int]]:
    """(width, height) of all buckets: the largest on the grid whose area is at most ``resolution_px`` squared.

    Args:
        resolution_px: root of the area.
        step_px: sides are multiples of it.
    """
    least, area = smallest_side(resolution_px, step_px), resolution_px**2
    sizes = set()
    for width in range(least, area // least + 1, step_px):
        height = area // width // step_px * step_px
        if height >= least:
            sizes |= {(width, height), (height, width)}
    return sorted(size for size in sizes if max(size) <= MAX_ASPECT * min(size))


def nearest_bucket(size_px: tuple[int, int], sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The bucket whose shape is nearest on a logarithmic scale; the larger one of two that are equally near."""
    aspect = math.log(size_px[0] / size_px[1])
    return min(sizes, key=lambda size: (abs(math.log(size[0] / size[1]) - aspect), -size[0] * size[1]))


def _place(sha256: str, number: int, count: int) -> tuple[float, float]:
    """Place ``number`` of ``count`` along what is cut away: one in each of as many equal parts of it.

    Drawn by the picture alone, not by the run's seed, so that runs can share what they encode.
    """
    drawn = int.from_bytes(blake2b(f"{sha256}/{number}/{count}".encode(), digest_size=8).digest(), "little")
    share = (number + drawn / (1 << 64)) / count
    return share, share
