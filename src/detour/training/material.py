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
from detour.training.cache import LatentCache, TextCache, TrainingData, cache_latents, cache_text

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
        text: states of every caption and of the prompts that are drawn during training.
        too_long: captions of which the text encoder sees only the beginning.
    """

    train: TrainingData
    held_out: TrainingData | None
    text: TextCache
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
    on_picture: OnPicture | None = None,
) -> Material:
    """Encode all pictures and texts; VAE and text encoders are gone from memory when this returns.

    Args:
        base: whose VAE and text encoders are used, in float32.
        train: at least one example.
        held_out: may be empty; its pictures are not mirrored.
        size_px: side of the square pictures.
        flip: cache the mirrored training pictures as well.
        device: where encoding runs; the caches are on the CPU.
        max_megapixels: larger pictures are refused.
        class_pictures: of the subject's class, for prior preservation.
        class_weight: loss weight of each of them.
        other_prompts: prompts whose states are wanted besides the captions.
        on_picture: told of every few pictures.

    Raises:
        BaseError, DataError: a part of the base or a picture cannot be read.
    """
    vae = base.load_vae(torch.float32, device)
    kinds = [(train, flip), (held_out, False), (class_pictures or replace(train, examples=()), flip)]
    train_latents, held_latents, class_latents = _encode_all(vae, kinds, size_px, max_megapixels, on_picture)
    assert train_latents is not None, "there is at least one example"
    gone: weakref.ref[Any] = weakref.ref(vae)
    del vae
    _make_sure(gone)
    captions = [example.caption for example in (*train.examples, *held_out.examples)]
    stage = base.load_text(torch.float32, device)
    class_captions = [example.caption for example in class_pictures.examples] if class_pictures else []
    text = cache_text(stage, [*captions, *class_captions, *other_prompts])
    too_long = stage.too_long([*captions, *class_captions])
    gone = weakref.ref(stage)
    del stage
    _make_sure(gone)
    shown = _data(train, train_latents, text)
    if class_pictures is not None and class_latents is not None:
        of_class = _data(class_pictures, class_latents, text)
        shown = replace(shown, class_data=of_class, class_weight=class_weight)
    return Material(
        train=shown,
        held_out=_data(held_out, held_latents, text) if held_latents is not None else None,
        text=text,
        too_long=tuple(too_long),
    )


def _encode_all(
    vae: nn.Module,
    kinds: Sequence[tuple[Dataset, bool]],
    size_px: int,
    max_megapixels: float,
    on_picture: OnPicture | None,
) -> list[LatentCache | None]:
    """Latents of each (pictures, whether mirrored as well); ``None`` where there are no pictures."""
    total = sum(len(dataset) for dataset, _ in kinds)
    caches: list[LatentCache | None] = []
    done = 0

    def squares(dataset: Dataset) -> Iterator[np.ndarray]:
        return (to_square(e.open(max_megapixels=max_megapixels), size_px) for e in dataset.examples)

    def told(offset: int) -> Callable[[int], None] | None:
        return None if on_picture is None else lambda count: on_picture(offset + count, total)

    for dataset, flip in kinds:
        pictures = squares(dataset)
        caches.append(
            cache_latents(vae, pictures, flip=flip, on_picture=told(done)) if len(dataset) else None
        )
        done += len(dataset)
    return caches


def _data(dataset: Dataset, latents: LatentCache, text: TextCache) -> TrainingData:
    captions = tuple(example.caption for example in dataset.examples)
    return TrainingData(latents=latents, text=text, captions=captions, epoch=dataset.epoch)


def _make_sure(gone: "weakref.ref[Any]") -> None:
    """Give memory back; where modules hold each other in a circle, counting references is not enough."""
    if gone() is not None:
        gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
