"""Pictures and captions as the UNet sees them, encoded once: a third of a step's work is the VAE's otherwise.

Mean and standard deviation are kept, so that a latent is drawn anew every time it is shown; the mirrored picture is
a second entry, because a mirrored latent is not the latent of the mirrored picture.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from detour.bases.latents import encode_pictures, to_pixels
from detour.bases.text import Conditioning, TextStage
from detour.data.framing import Frame
from detour.training.order import group_places

ENCODE_BATCH = 4
"""Pictures in one pass of the VAE; part of the bytes, so not a setting."""


@dataclass(frozen=True)
class LatentCache:
    """Scaled latents of N pictures, each in V views.

    Attributes:
        means: (V, N, C, h, w) float32 on the CPU; V is 2 where view 1 is the mirrored picture, else 1.
        stds: as ``means``.
    """

    means: Tensor
    stds: Tensor

    @property
    def num_pictures(self) -> int:
        return int(self.means.shape[1])

    @property
    def num_views(self) -> int:
        return int(self.means.shape[0])

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of the latents of one picture: (C, h, w)."""
        return tuple(self.means.shape[2:])

    def shape_of(self, _picture: int) -> tuple[int, ...]:
        """(C, h, w), the same for every picture."""
        return self.latent_shape

    def moments(self, picture: int, view: int, _frame: int = 0) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, (C, h, w) each."""
        return self.means[view, picture], self.stds[view, picture]


class LatentSource(Protocol):
    """Where a batch gets its latents from: scaled, float32, on the CPU.

    View 1 of a picture is the mirrored one, where there are two; its frames are the places of the crop.
    """

    @property
    def num_pictures(self) -> int: ...

    @property
    def num_views(self) -> int: ...

    def shape_of(self, picture: int, /) -> tuple[int, ...]:
        """(C, h, w) of a picture, the same in all of its views."""

    def moments(self, picture: int, view: int, frame: int = 0, /) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, (C, h, w) each."""


class TextSource(Protocol):
    """Where a batch gets its text states from: a cache, or encoders that are trained beside the UNet."""

    def conditioning(self, captions: Sequence[str | None], /) -> Conditioning:
        """States of the captions in order; ``None`` is the family's unconditional text."""


@dataclass(frozen=True)
class TextCache:
    """States of the distinct captions, the unconditional ones last; a :class:`TextSource`.

    Attributes:
        states: (M + 1, L, D) on the CPU.
        row_of: caption → its row.
    """

    states: Conditioning
    row_of: Mapping[str, int]

    def conditioning(self, captions: Sequence[str | None]) -> Conditioning:
        """States of captions that were cached; ``None`` is the family's unconditional text."""
        last = len(self.states) - 1
        return self.states.select([last if caption is None else self.row_of[caption] for caption in captions])

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """States of prompts that were cached; reads like :meth:`detour.bases.text.TextStage.encode`."""
        return self.conditioning(prompts)

    def unconditional(self, num: int) -> Conditioning:
        """The family's unconditional states, ``num`` times."""
        return self.conditioning([None] * num)


@dataclass(frozen=True)
class TrainingData:
    """Everything about the pictures that training reads.

    Attributes:
        latents: of N pictures.
        text: of all captions; shared with the class pictures.
        captions: (N,) of each picture.
        epoch: indices of one epoch's pictures; a picture that is repeated stands there as often.
        weights: (N,) factor on each picture's loss; empty: 1.
        shuffled: (N,) captions of each picture with its tags in other orders, shown in the caption's place; or empty.
        frames: (N,) the parts of each picture that were encoded; empty: one square each.
        masks: (N,) for each frame (1, h, w) float32 of mean 1, which positions count; an empty tuple: all alike.
        shown: (N, width) float32 embeddings of the pictures, which an IP-Adapter is trained on; ``None`` for others.
        class_data: pictures of the subject's class, shown alternately with these; they have no class of their own.
    """

    latents: LatentSource
    text: TextSource
    captions: tuple[str, ...]
    epoch: tuple[int, ...]
    weights: tuple[float, ...] = ()
    shuffled: tuple[tuple[str, ...], ...] = ()
    frames: tuple[tuple[Frame, ...], ...] = ()
    masks: tuple[tuple[Tensor, ...], ...] = ()
    shown: Tensor | None = None
    class_data: "TrainingData | None" = None

    @functools.cached_property
    def buckets(self) -> tuple[tuple[int, ...], ...]:
        """Places in the epoch, grouped by the size of their pictures."""
        return group_places([self.latents.shape_of(picture) for picture in self.epoch])

    @functools.cached_property
    def repeats(self) -> Counter[int]:
        """How often each picture stands in the epoch."""
        return Counter(self.epoch)

    def num_frames(self, picture: int) -> int:
        """How many frames a picture has."""
        return len(self.frames[picture]) if self.frames else 1

    def size_ids_of(self, picture: int, view: int, frame: int) -> tuple[int, ...] | None:
        """What SDXL is told of one view, see :meth:`detour.data.framing.Frame.size_ids`."""
        return self.frames[picture][frame].size_ids(mirrored=view == 1) if self.frames else None

    def mask_of(self, picture: int, view: int, frame: int) -> Tensor | None:
        """(1, h, w) float32 of mean 1; ``None``: every position counts alike."""
        if not self.masks or not self.masks[picture]:
            return None
        mask = self.masks[picture][frame]
        return mask.flip(-1) if view == 1 else mask

    def weight_of(self, picture: int) -> float:
        """Factor on the loss of a picture."""
        return self.weights[picture] if self.weights else 1.0


def cache_latents(
    vae: nn.Module,
    pictures: Iterable[np.ndarray],
    *,
    flip: bool,
    on_picture: Callable[[int], None] | None = None,
) -> LatentCache:
    """Encode every picture once, and once mirrored with ``flip``.

    Args:
        vae: an ``AutoencoderKL``.
        pictures: uint8 (H, W, 3) each, all of one size; taken one after the other, so they need not fit in memory.
        flip: add the mirrored view.
        on_picture: called with the number of pictures that are done.
    """
    means: list[list[Tensor]] = [[], []] if flip else [[]]
    stds: list[list[Tensor]] = [[], []] if flip else [[]]
    waiting: list[np.ndarray] = []
    done = 0

    def encode_waiting() -> None:
        nonlocal done
        pixels = to_pixels(np.stack(waiting))
        for view, shown in enumerate([pixels, pixels.flip(-1)][: len(means)]):
            mean, std = encode_pictures(vae, shown)
            means[view].append(mean.cpu())
            stds[view].append(std.cpu())
        done += len(waiting)
        waiting.clear()
        if on_picture is not None:
            on_picture(done)

    for picture in pictures:
        waiting.append(picture)
        if len(waiting) == ENCODE_BATCH:
            encode_waiting()
    if waiting:
        encode_waiting()
    return LatentCache(
        means=torch.stack([torch.cat(view) for view in means]),
        stds=torch.stack([torch.cat(view) for view in stds]),
    )


def cache_text(text: TextStage, prompts: Iterable[str]) -> TextCache:
    """Encode every distinct prompt and the family's unconditional text once."""
    distinct = list(dict.fromkeys(prompts))
    states = text.encode(distinct).cat(text.unconditional(1)) if distinct else text.unconditional(1)
    return TextCache(states.to("cpu"), {prompt: row for row, prompt in enumerate(distinct)})
