"""From checked pictures to what training reads, one component of the base at a time.

The VAE is loaded, used and released before the text encoder comes; the UNet comes after both. On SD 1.5 that keeps
half a gigabyte out of the way of training.
"""

import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from detour.data.folder import Dataset
from detour.data.transform import to_square
from detour.training.cache import LatentCache, TextCache, TextSource, TrainingData, cache_latents, cache_text
from detour.training.live_text import LiveText

if TYPE_CHECKING:
    from detour.bases.base import Base

OnPicture = Callable[[int, int], None]
"""(pictures done, pictures in all)."""


@dataclass(frozen=True)
class Material:
    """What a run reads after the caches stand.

    Attributes:
        train: pictures that are trained on.
        held_out: pictures kept out for validation, if any.
        text: states of every caption and of the prompts that are drawn during training, or encoders that train.
        too_long: captions of which the text encoder sees only the beginning.
    """

    train: TrainingData
    held_out: TrainingData | None
    text: TextCache | LiveText
    too_long: tuple[str, ...]


def load_material(
    base: "Base",
    train: Dataset,
    held_out: Dataset,
    *,
    size_px: int,
    flip: bool,
    device: str,
    max_megapixels: float,
    class_pictures: Dataset | None = None,
    class_weight: float = 1.0,
    other_prompts: Sequence[str] = (),
    live_text: torch.dtype | None = None,
    on_picture: OnPicture | None = None,
) -> Material:
    """Encode all pictures and texts; VAE and text encoders are gone from memory when this returns.

    With ``live_text`` the text encoders stay, in that precision, because they train.

    Args:
        base: whose VAE and text encoders are used, in float32.
        train: at least one example; its class pictures come with it.
        held_out: may be empty; its pictures are not mirrored.
        size_px: side of the square pictures.
        flip: cache the mirrored training pictures as well.
        device: where encoding runs; the caches are on the CPU.
        max_megapixels: larger pictures are refused.
        class_pictures: of the subject's class, for prior preservation.
        class_weight: loss weight of each of them.
        other_prompts: prompts whose states are wanted besides the captions.
        live_text: precision of text encoders that train; ``None`` where they do not.
        on_picture: told of every few pictures.

    Raises:
        BaseError, DataError: a part of the base or a picture cannot be read.
    """
    vae = base.load_vae(torch.float32, device)
    parts = [train, held_out, _of_class(train, class_pictures, class_weight)]
    latents = _encode_all(vae, parts, size_px, flip, max_megapixels, on_picture)
    gone: weakref.ref[Any] = weakref.ref(vae)
    del vae
    _make_sure(gone)
    captions = [example.caption for part in parts for example in part.examples]
    stage = base.load_text(live_text or torch.float32, device)
    too_long = stage.too_long(captions)
    text: TextCache | LiveText
    if live_text is not None:
        text = LiveText(stage)
    else:
        shuffled = [caption for part in parts for example in part.examples for caption in example.shuffled]
        text = cache_text(stage, [*captions, *shuffled, *other_prompts])
        gone = weakref.ref(stage)
        del stage
        _make_sure(gone)
    train_data, held_data, class_data = (
        _data(part, of_part, text) if of_part is not None else None
        for part, of_part in zip(parts, latents, strict=True)
    )
    assert train_data is not None, "a training set has at least one picture"
    return Material(
        train=replace(train_data, class_data=class_data),
        held_out=held_data,
        text=text,
        too_long=tuple(too_long),
    )


def _of_class(train: Dataset, drawn: Dataset | None, weight: float) -> Dataset:
    """Class pictures of the user's folders, and those that the base drew."""
    drawn_examples = (replace(example, weight=weight) for example in (drawn.examples if drawn else ()))
    return Dataset((*train.class_examples, *drawn_examples))


def _encode_all(
    vae: nn.Module,
    parts: Sequence[Dataset],
    size_px: int,
    flip: bool,
    max_megapixels: float,
    on_picture: OnPicture | None,
) -> list[LatentCache | None]:
    """Latents of (train, held out, class); ``None`` of an empty part. What is held out is not mirrored."""
    total, before = sum(map(len, parts)), 0

    def squares(dataset: Dataset) -> Iterator[np.ndarray]:
        return (to_square(e.open(max_megapixels=max_megapixels), size_px) for e in dataset.examples)

    def told(offset: int) -> Callable[[int], None] | None:
        return None if on_picture is None else lambda done: on_picture(offset + done, total)

    latents: list[LatentCache | None] = []
    for part, mirrored in zip(parts, (flip, False, flip), strict=True):
        encoded = (
            cache_latents(vae, squares(part), flip=mirrored, on_picture=told(before)) if len(part) else None
        )
        latents.append(encoded)
        before += len(part)
    return latents


def _data(dataset: Dataset, latents: LatentCache, text: TextSource) -> TrainingData:
    return TrainingData(
        latents=latents,
        text=text,
        captions=tuple(example.caption for example in dataset.examples),
        epoch=dataset.epoch,
        weights=tuple(example.weight for example in dataset.examples),
        shuffled=tuple(example.shuffled for example in dataset.examples),
    )


def _make_sure(gone: "weakref.ref[Any]") -> None:
    """Give memory back; where modules hold each other in a circle, counting references is not enough."""
    if gone() is not None:
        gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
