"""From checked pictures to what training reads, one component of the base at a time.

The VAE is loaded, used and released before the text encoder comes; the UNet comes after both. On SD 1.5 that keeps
half a gigabyte out of the way of training.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from detour.bases.hardware import t5_dtype
from detour.bases.image_encoder import ImageEncoder
from detour.data.folder import Dataset
from detour.data.framing import Frame, Framing
from detour.entry_store import EntryStore
from detour.specs import DataSpec
from detour.training.cache import LatentSource, TextCache, TextSource, TrainingData, cache_text
from detour.training.cropped_latents import cache_cropped
from detour.training.data_fit import framing_of, latent_masks
from detour.training.stored import Lazy, StoredText, open_store, store_latents, store_text, stored_encoder
from detour.training.trained_text import TrainedText

if TYPE_CHECKING:
    from detour.bases.base import Base

OnPicture = Callable[[int, int], None]
"""(pictures done, pictures in all)."""

PartName = Literal["train", "held_out", "class"]
"""Pictures of a run that are encoded: to learn, kept out for validation, of the subject's class."""

Frames = tuple[tuple[Frame, ...], ...]
"""(N,) frames of each picture."""


@dataclass(frozen=True)
class Material:
    """What a run reads after the caches stand.

    Attributes:
        train: pictures that are trained on.
        held_out: pictures kept out for validation, if any.
        text: states of every caption and of the prompts that are drawn during training, or encoders that train.
        too_long: captions and other prompts of which the text encoder sees only the beginning.
        notes: what the user should know of the caches.
    """

    train: TrainingData
    held_out: TrainingData | None
    text: TextCache | StoredText | TrainedText
    too_long: tuple[str, ...]
    notes: tuple[str, ...] = ()


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
    trained_text_dtype: torch.dtype | None = None,
    image_encoder: ImageEncoder | None = None,
    on_picture: OnPicture | None = None,
) -> Material:
    """Encode all pictures and texts; VAE and text encoders are gone from memory when this returns.

    With ``trained_text_dtype`` the text encoders stay, in that precision, because they train.

    Args:
        base: whose VAE and text encoders are used, in float32.
        train: at least one example; its class pictures come with it.
        held_out: may be empty; its pictures are neither mirrored nor cut at random.
        spec: without any ``"auto"``; says how pictures are framed, mirrored and masked.
        device: where encoding runs; the caches are on the CPU.
        class_pictures: of the subject's class, for prior preservation.
        class_weight: loss weight of each of them.
        other_prompts: prompts whose states are wanted besides the captions.
        trained_text_dtype: precision of text encoders that train; ``None`` where they do not.
        image_encoder: makes the embeddings that an IP-Adapter is trained on; ``None`` where none is.
        on_picture: told of every few pictures.

    Raises:
        BaseError, DataError: a part of the base or a picture cannot be read.
    """
    parts: dict[PartName, Dataset] = {
        "train": train,
        "held_out": held_out,
        "class": _of_class(train, class_pictures, class_weight),
    }
    frames = _frames(parts, framing_of(spec, base))
    store = open_store(spec)
    latents = _encode_all(base, parts, frames, spec, device, store, on_picture)
    captions = [example.caption for part in parts.values() for example in part.examples]
    shuffled = [
        caption for part in parts.values() for example in part.examples for caption in example.shuffled
    ]
    prompts = [*captions, *shuffled, *other_prompts]
    text: TextCache | StoredText | TrainedText
    if trained_text_dtype is not None:
        stage = base.load_text(trained_text_dtype, device)
        text, too_long = TrainedText(stage), stage.too_long([*captions, *other_prompts])
    else:
        text, too_long = _encode_text(base, prompts, [*captions, *other_prompts], device, store)
    assert "train" in latents, "a training set has at least one picture"
    data = {
        name: _data(parts[name], encoded, frames[name], text, spec, base.latent_factor, image_encoder)
        for name, encoded in latents.items()
    }
    return Material(
        train=replace(data["train"], class_data=data.get("class")),
        held_out=data.get("held_out"),
        text=text,
        too_long=tuple(too_long),
        notes=tuple(_closed(store, spec)),
    )


def _of_class(train: Dataset, drawn: Dataset | None, weight: float) -> Dataset:
    """Class pictures of the user's folders, and those that the base drew."""
    drawn_examples = (replace(example, weight=weight) for example in (drawn.examples if drawn else ()))
    return Dataset((*train.class_examples, *drawn_examples))


def _frames(parts: Mapping[PartName, Dataset], framing: Framing) -> dict[PartName, Frames]:
    """Choose the frames of every picture; held-out pictures are shown at their centre alone."""
    return {
        name: tuple(framing.frames(example, crops=name != "held_out") for example in part.examples)
        for name, part in parts.items()
    }


def _encode_all(
    base: "Base",
    parts: Mapping[PartName, Dataset],
    frames: Mapping[PartName, Frames],
    spec: DataSpec,
    device: str,
    store: EntryStore | None,
    on_picture: OnPicture | None,
) -> dict[PartName, LatentSource]:
    """Encode the pictures of every part that has some; held-out pictures are not mirrored."""
    counts = {name: sum(map(len, of_part)) for name, of_part in frames.items()}
    total = sum(counts.values())
    vae = Lazy(lambda: base.load_vae(torch.float32, device))
    encoder = stored_encoder(base, ["vae"], lambda: {"vae": vae()}, store, device) if store else ""

    def encoded(name: PartName, before: int) -> LatentSource:
        examples, limit = parts[name].examples, spec.max_megapixels
        flip = spec.flip and name != "held_out"

        def on_encoded(done: int) -> None:
            if on_picture is not None:
                on_picture(before + done, total)

        if store is None:
            return cache_cropped(
                vae(), examples, frames[name], flip=flip, max_megapixels=limit, on_picture=on_encoded
            )
        return store_latents(
            store,
            vae,
            encoder,
            examples,
            frames[name],
            flip=flip,
            latent=(base.latent_channels, base.latent_factor),
            max_megapixels=limit,
            on_frames=on_encoded,
        )

    latents: dict[PartName, LatentSource] = {}
    done = 0
    for name, part in parts.items():
        if len(part):
            latents[name] = encoded(name, done)
        done += counts[name]
    vae.release()
    return latents


def _encode_text(
    base: "Base", prompts: Sequence[str], said: Sequence[str], device: str, store: EntryStore | None
) -> tuple[TextCache | StoredText, list[str]]:
    """States of the prompts, and those of ``said`` that are too long."""
    stage = Lazy(lambda: base.load_text(torch.float32, device, t5_dtype=t5_dtype(device)))
    if store is None:
        cached, too_long = cache_text(stage(), prompts), stage().too_long(said)
        stage.release()
        return cached, too_long
    names = list(base.text_parts)
    encoder = stored_encoder(base, names, lambda: stage().models, store, device)
    stored, too_long = store_text(store, stage, encoder, prompts)
    stage.release()
    return stored, [prompt for prompt in too_long if prompt in set(said)]


def _closed(store: EntryStore | None, spec: DataSpec) -> list[str]:
    """Keep the cache's bound; sentences on what the user should know of it."""
    if store is None:
        return []
    notes = []
    if store.damaged:
        notes.append(f"{store.damaged} entries of the cache were damaged and made again ({store.folder}).")
    if over := store.evict():
        notes.append(
            f"The cache is {over / 2**30:.1f} GiB above data.cache_gib ({spec.cache_gib:g}): runs read all of it."
        )
    return notes


def _data(
    dataset: Dataset,
    latents: LatentSource,
    frames: Frames,
    text: TextSource,
    spec: DataSpec,
    factor: int,
    image_encoder: ImageEncoder | None,
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
        shown=None if image_encoder is None else _embeddings(dataset, image_encoder, spec),
    )


def _embeddings(dataset: Dataset, encoder: ImageEncoder, spec: DataSpec) -> torch.Tensor:
    """(N, width) float32: each picture as the image encoder sees it, whole and not mirrored."""
    opened = (example.open(max_megapixels=spec.max_megapixels) for example in dataset.examples)
    found = [encoder.with_none(np.asarray(image, dtype=np.uint8), pooled=True)[1] for image in opened]
    return torch.stack(found).float().cpu()
