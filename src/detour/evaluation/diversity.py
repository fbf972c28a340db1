"""Measures how much the pictures of one side differ from each other, and names a collapse."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from detour.errors import ShapeMismatch
from detour.evaluation.compared import Compared, Part, Side
from detour.evaluation.pixels import Pictures, diversity, thumbnails

CollapseName = Literal["within_prompt", "across_prompts"]
"""``within_prompt``: every seed gives the same picture; ``across_prompts``: every prompt does."""


class Spread(Part):
    """Mean distance of two different pictures of one side."""

    judge: Compared
    """One minus the cosine of the judge's features, 0 to 2."""
    pixels: Compared
    """Mean absolute difference of 16-pixel thumbnails, in steps of 255."""

    def kept(self) -> float:
        """The adapter's share of the pixels' spread that it should have: the base's or, where lower, that of true
        pictures, as a style of few tones has less of it."""
        expected = min(
            self.pixels.base, self.pixels.base if self.pixels.ceiling is None else self.pixels.ceiling
        )
        return self.pixels.adapter / expected if expected else 1.0


class Diversity(Part):
    """Spread of pictures within a prompt, over its seeds, and over different prompts."""

    prompts: int
    seeds: int
    within_prompt: Spread | None
    """Spread over the seeds of a prompt; ``None`` for one seed a prompt."""
    across_prompts: Spread | None
    """Spread over different prompts; ``None`` for one prompt."""
    collapses: tuple[CollapseName, ...]


def measure_diversity(
    pictures: Mapping[Side, Pictures],
    picture_features: Mapping[Side, Tensor],
    *,
    seeds: int,
    share_max: float,
    truths: tuple[Pictures, Tensor] | None = None,
) -> Diversity:
    """Measure the spread of every side, and name a collapse.

    Args:
        pictures: side → uint8 (prompts × seeds, H, W, 3), prompt-major; adapter and base at least.
        picture_features: side → (prompts × seeds, D) their features, rows of length one.
        seeds: pictures of each prompt.
        share_max: collapsed where the adapter keeps this share of the spread, or less.
        truths: true pictures of the prompts and their features, prompt-major, as many of each: the ceiling.

    Raises:
        ShapeMismatch: the sides have not the same number of pictures, or not ``seeds`` of each prompt.
    """
    counts = {*map(len, pictures.values()), *map(len, picture_features.values())}
    count = counts.pop()
    if counts or not count or count % seeds:
        raise ShapeMismatch(f"{sorted({*counts, count})} pictures a side are not {seeds} of each prompt.")
    sides = {side: _spreads(pictures[side], picture_features[side], seeds) for side in picture_features}
    prompts = count // seeds
    true = None if truths is None else _spreads(*truths, seeds=len(truths[0]) // prompts)
    within = _compared({side: one[0] for side, one in sides.items()}, None if true is None else true[0])
    across = _compared({side: one[1] for side, one in sides.items()}, None if true is None else true[1])
    named: tuple[tuple[CollapseName, Spread | None], ...] = (
        ("within_prompt", within), ("across_prompts", across),
    )  # fmt: skip
    return Diversity(
        prompts=prompts, seeds=seeds, within_prompt=within, across_prompts=across,
        collapses=tuple(name for name, spread in named if spread and spread.kept() <= share_max),
    )  # fmt: skip


def distances_within(picture_features: Tensor, *, seeds: int) -> Tensor:
    """Measure how different the pictures of each prompt are: the mean of 1 − cosine over pairs of them.

    Args:
        picture_features: (prompts × seeds, D) features of length one, prompt-major.
        seeds: pictures of each prompt, two or more.

    Returns:
        float64 (prompts,).
    """
    by_prompt = picture_features.double().reshape(-1, seeds, picture_features.shape[1])
    return _mean_of_pairs(1 - by_prompt @ by_prompt.mT)


def pixels_within(pictures: Pictures, *, seeds: int) -> Tensor:
    """Mean absolute difference of thumbnails over pairs of each prompt's pictures, in steps of 255.

    Args:
        pictures: uint8 (prompts × seeds, H, W, 3), prompt-major.
        seeds: pictures of each prompt, two or more.

    Returns:
        float64 (prompts,).
    """
    thumbs = torch.from_numpy(thumbnails(pictures)).flatten(1)
    by_prompt = thumbs.reshape(-1, seeds, thumbs.shape[1])
    return _mean_of_pairs(torch.cdist(by_prompt, by_prompt, p=1) / thumbs.shape[1])


def _mean_of_pairs(distances: Tensor) -> Tensor:
    """Mean over the entries off the diagonal: (…, S, S) → (…,)."""
    count = distances.shape[-1]
    diagonal = distances.diagonal(dim1=-2, dim2=-1).sum(-1)
    return (distances.sum((-2, -1)) - diagonal) / (count * (count - 1))


Pair = tuple[float, float]
"""The judge's distance and the pixels' distance."""


def _spreads(pictures: Pictures, picture_features: Tensor, seeds: int) -> tuple[Pair | None, Pair | None]:
    """Spread within prompts and across them; ``None`` where there are no pairs."""
    prompts = len(pictures) // seeds
    within = None
    if seeds > 1:
        within = (
            float(distances_within(picture_features, seeds=seeds).mean()),
            float(pixels_within(pictures, seeds=seeds).mean()),
        )
    if prompts < 2:
        return within, None
    number = torch.arange(len(pictures)) // seeds
    others = number[:, None] != number[None]
    far = 1 - picture_features.double() @ picture_features.double().T
    return within, (float(far[others].mean()), diversity(pictures, seeds=seeds))


def _compared(sides: Mapping[Side, Pair | None], true: Pair | None) -> Spread | None:
    known = {side: pair for side, pair in sides.items() if pair is not None}
    if not known:
        return None
    judge, pixels = (
        Compared.of(
            {side: pair[i] for side, pair in known.items()}, ceiling=None if true is None else true[i]
        )
        for i in (0, 1)
    )
    return Spread(judge=judge, pixels=pixels)
