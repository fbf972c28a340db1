"""Latents of pictures of several sizes, each in several views: crops, and each crop mirrored."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from detour.data.folder import Example
from detour.data.framing import Frame
from detour.training.cache import LatentCache, cache_latents
from detour.training.order import group_places


@dataclass(frozen=True)
class CroppedLatents:
    """A :class:`detour.training.cache.LatentSource` over one cache for each size.

    Attributes:
        caches: every frame of every picture of one size is a picture of its cache.
        first: (N,) cache of each picture, and the place of its first frame in it.
    """

    caches: tuple[LatentCache, ...]
    first: tuple[tuple[int, int], ...]

    @property
    def num_pictures(self) -> int:
        return len(self.first)

    def shape_of(self, picture: int) -> tuple[int, ...]:
        """(C, h, w) of a picture."""
        return self.caches[self.first[picture][0]].latent_shape

    @property
    def num_views(self) -> int:
        return self.caches[0].num_views

    def moments(self, picture: int, view: int, frame: int = 0) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, (C, h, w) each."""
        cache, place = self.first[picture]
        return self.caches[cache].moments(place + frame, view)


def cache_cropped(
    vae: nn.Module,
    examples: Sequence[Example],
    frames: Sequence[Sequence[Frame]],
    *,
    flip: bool,
    max_megapixels: float,
    on_picture: Callable[[int], None] | None = None,
) -> CroppedLatents:
    """Encode every frame of every picture, size by size.

    Args:
        vae: an ``AutoencoderKL``.
        examples: N pictures.
        frames: (N,) the frames of each, at least one, of one size.
        flip: add mirrored views.
        max_megapixels: larger pictures are refused.
        on_picture: called with the number of frames that are done.
    """
    groups = group_places([of_one[0].size_px for of_one in frames])
    first: dict[int, tuple[int, int]] = {}
    caches: list[LatentCache] = []
    done = 0

    def cuts(group: Sequence[int]) -> Iterator[np.ndarray]:
        for picture in group:
            image = examples[picture].open(max_megapixels=max_megapixels)
            yield from (frame.cut(image) for frame in frames[picture])

    for group in groups:
        place = 0
        for picture in group:
            first[picture] = (len(caches), place)
            place += len(frames[picture])
        on_cached = _after(done, on_picture)
        caches.append(cache_latents(vae, cuts(group), flip=flip, on_picture=on_cached))
        done += place
    return CroppedLatents(tuple(caches), tuple(first[picture] for picture in range(len(examples))))


def _after(before: int, on_picture: Callable[[int], None] | None) -> Callable[[int], None] | None:
    return None if on_picture is None else lambda done: on_picture(before + done)
