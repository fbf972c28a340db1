"""From checked pictures to what training reads, one component of the base at a time.

The VAE is loaded, used and released before the text encoder comes; the UNet comes after both. On SD 1.5 that keeps
half a gigabyte out of the way of training.
"""

import gc
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from detour.data.folder import Dataset
from detour.data.framing import Frame, Framing
from detour.specs import DataSpec
from detour.training.cache import LatentSource, TextCache, TextSource, TrainingData, cache_text
from detour.training.data_fit import framing_of, latent_masks
from detour.training.framed import FramedLatents, cache_framed
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
    spec: DataSpec,
    device: str,
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
        held_out: may be empty; its pictures are neither mirrored nor cut at random.
        spec: without any ``"auto"``; says how pictures are framed, mirrored and masked.
        device: where encoding runs; the caches are on the CPU.
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
    frames = _frames(parts, framing_of(spec, base))
    latents = _encode_all(vae, parts, frames, spec, on_picture)
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
        _data(part, encoded, of_part, text, spec, base.latent_factor) if encoded is not None else None
        for part, encoded, of_part in zip(parts, latents, frames, strict=True)
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


def _frames(parts: Sequence[Dataset], framing: Framing) -> list[tuple[tuple[Frame, ...], ...]]:
    """Of (train, held out, class). Of what is held out the centre alone."""
    return [
        tuple(framing.frames(example, crops=part is not parts[1]) for example in part.examples)
        for part in parts
    ]


def _encode_all(
    vae: nn.Module,
    parts: Sequence[Dataset],
    frames: Sequence[Sequence[Sequence[Frame]]],
    spec: DataSpec,
    on_picture: OnPicture | None,
) -> list[FramedLatents | None]:
    """Latents of (train, held out, class); ``None`` of an empty part. What is held out is not mirrored."""
    counts = [sum(map(len, of_part)) for of_part in frames]

    def told(before: int) -> Callable[[int], None] | None:
        return None if on_picture is None else lambda done: on_picture(before + done, sum(counts))

    return [
        cache_framed(
            vae,
            part.examples,
            frames[index],
            flip=spec.flip and index != 1,
            max_megapixels=spec.max_megapixels,
            on_picture=told(sum(counts[:index])),
        )
        if len(part)
        else None
        for index, part in enumerate(parts)
    ]


def _data(
    dataset: Dataset,
    latents: LatentSource,
    frames: tuple[tuple[Frame, ...], ...],
    text: TextSource,
    spec: DataSpec,
    factor: int,
) -> TrainingData:
    return TrainingData(
        latents=latents,
        text=text,
        captions=tuple(example.caption for example in dataset.examples),
        epoch=dataset.epoch,
        weights=tuple(example.weight for example in dataset.examples),
        shuffled=tuple(example.shuffled for example in dataset.examples),
        frames=frames,
        masks=latent_masks(dataset, frames, spec, factor),
    )


def _make_sure(gone: "weakref.ref[Any]") -> None:
    """Give memory back; where modules hold each other in a circle, counting references is not enough."""
    if gone() is not None:
        gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
