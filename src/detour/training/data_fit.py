"""How pictures meet the settings: their frames, their masks, and what the user should know of both."""

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from detour.data.folder import Dataset, Example
from detour.data.framing import Frame, Framing
from detour.errors import DataError
from detour.specs import DataSpec
from detour.specs.resolved import ResolvedRun

if TYPE_CHECKING:
    from detour.bases.base import Base


def framing_of(spec: DataSpec, base: "Base") -> Framing:
    """Say how the pictures of a run are framed; an ``auto`` size is the base's own."""
    return Framing(
        resolution_px=base.native_size_px if spec.resolution == "auto" else spec.resolution,
        step_px=base.bucket_step_px if spec.buckets else 0,
        crops=spec.crops if spec.crop == "random" else 0,
        upscale=spec.upscale,
    )


def check_data(spec: ResolvedRun, dataset: Dataset, base: "Base") -> list[str]:
    """Sentences on what becomes of these pictures under these settings.

    Args:
        spec: a resolved run.
        dataset: its pictures.
        base: what they are trained on.

    Raises:
        DataError: a picture is smaller than every bucket, or there are no masks where masks were asked for.
        ConfigError: a bucket is larger than the base's table of positions.
    """
    framing = framing_of(spec.data, base)
    frames = {e.name: framing.frames(e, crops=False)[0] for e in (*dataset.examples, *dataset.class_examples)}
    base.refuse_side(max((side for frame in frames.values() for side in frame.size_px), default=0))
    notes = _masks_in_words(spec.data, dataset)
    if spec.data.buckets:
        notes += _buckets_in_words(dataset, frames, spec.train.batch * spec.train.grad_accum)
    return notes


def latent_masks(
    dataset: Dataset, frames: tuple[tuple[Frame, ...], ...], spec: DataSpec, factor: int
) -> tuple[tuple[Tensor, ...], ...]:
    """Weights of latent positions of each picture and frame: (1, h, w) float32 of mean 1.

    Args:
        dataset: N pictures.
        frames: (N,) of each picture.
        spec: says where masks come from.
        factor: pixels a latent position.

    Returns:
        An empty tuple for a picture without a mask; altogether empty where masks are off.

    Raises:
        DataError: a mask cannot be read, or leaves nothing of a frame.
    """
    if spec.mask == "off":
        return ()
    return tuple(
        _masks_of(example, of_one, spec, factor)
        for example, of_one in zip(dataset.examples, frames, strict=True)
    )


def _masks_of(example: Example, frames: tuple[Frame, ...], spec: DataSpec, factor: int) -> tuple[Tensor, ...]:
    channel = example.open_mask(alpha=spec.mask == "alpha")
    if channel is None:
        return ()
    masks = []
    for frame in frames:
        shown = spec.mask_floor + (1 - spec.mask_floor) * frame.cut_mask(channel, factor)
        if shown.sum() < 1:
            raise DataError(
                f"{example.name}: its mask leaves less than one latent position ({factor} × {factor} px) of what is "
                "trained on. Correct the mask, or set data.mask_floor."
            )
        masks.append(torch.from_numpy(np.asarray(shown / shown.mean(), dtype=np.float32))[None])
    return tuple(masks)


def _masks_in_words(spec: DataSpec, dataset: Dataset) -> list[str]:
    if spec.mask == "off":
        return []
    examples = (*dataset.examples, *dataset.class_examples)
    bare, shares = [], []
    for example in examples:
        mask = example.open_mask(alpha=spec.mask == "alpha")
        if mask is None:
            bare.append(example.name)
        else:
            shares.append(float(np.asarray(mask).mean()) / 255)
    if len(bare) == len(examples):
        found = (
            "picture has an alpha channel"
            if spec.mask == "alpha"
            else "NAME.mask.png or mask/NAME.png is there"
        )
        raise DataError(f"data.mask is '{spec.mask}', but no {found}. Add masks, or leave data.mask out.")
    num = len(shares)
    notes = [
        f"{num} mask{'s' * (num != 1)}, on average {np.mean(shares):.0%} of a picture counts."
        + (" No mask leaves anything out." if min(shares) == 1 else "")
    ]
    if bare:
        notes.append(f"{_pictures(len(bare))} without a mask and counted in full ({_some(bare)}).")
    return notes


def _buckets_in_words(dataset: Dataset, frames: dict[str, Frame], per_step: int) -> list[str]:
    counts = Counter(frames[e.name].size_px for e in dataset.examples)
    listed = ", ".join(f"{width}×{height} ({count})" for (width, height), count in sorted(counts.items()))
    notes = [f"Buckets: {listed}; a step shows one of them."]
    few = [f"{width}×{height}" for (width, height), count in sorted(counts.items()) if count < per_step]
    if few and len(counts) > 1:
        notes.append(
            f"Fewer pictures than the {per_step} samples of a step in {_some(few)}: a step of these shows a picture "
            "more than once. Over the run each is shown as often as the others."
        )
    return notes


def _pictures(num: int) -> str:
    return f"{num} picture{'s are' if num != 1 else ' is'}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
