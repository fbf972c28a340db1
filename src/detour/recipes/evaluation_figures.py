"""From the pictures of all sides to figures: what an evaluation measures, each beside its controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor

from detour.bases.base import Base
from detour.errors import BaseError
from detour.evaluation import pixels, thresholds
from detour.evaluation.compared import Side
from detour.evaluation.copies import CopyFigures, measure_copies
from detour.evaluation.differences import Difference
from detour.evaluation.diversity import Diversity, measure_diversity
from detour.evaluation.drift import Drift, measure_drift
from detour.evaluation.evaluation import DriftFigures
from detour.evaluation.feature_cache import FeatureCache
from detour.evaluation.fidelity import Fidelity, measure_fidelity
from detour.evaluation.held_out import MIN_REFERENCES
from detour.evaluation.judge import Judge, PromptFacts, judge_of
from detour.evaluation.marks import MarkFigures, measure_marks
from detour.evaluation.pixels import Pictures
from detour.evaluation.prompt_keeping import (
    Following,
    Hits,
    PromptKeeping,
    falls_of,
    measure_following,
    measure_prompt_keeping,
)
from detour.evaluation.proof import PixelFigures
from detour.pocket.world import plain_prompt
from detour.recipes.evaluation_material import WORDS, Asked, EvaluationMaterial
from detour.recipes.evaluation_pictures import Drawn


@dataclass(frozen=True, kw_only=True)
class Figures:
    """All that was measured; ``None`` where it could not be, with a note.

    Attributes:
        pixels: with the adapter against without, on the new prompts.
        fidelity: distance to the reference pictures.
        prompt_keeping: whether prompts are kept.
        drift: on unrelated prompts.
        diversity: spread of the pictures.
        copies: of training pictures.
        recited: of training pictures, where the prompts are training captions.
        reproduced: of pictures that must not be reproduced.
        marks: in the same place of many pictures.
        falls: part of the prompt → by how much fewer of the adapter's pictures show it than of the base's or the true
            ones, whichever show it less often.
        following: whether pictures still have to do with their prompts; ``None``: one prompt, or no judge.
        looks: side → (prompts × seeds, D) the judge's features of the pictures of new prompts; empty without a judge.
        notes: what could not be measured, and why.
    """

    pixels: PixelFigures
    fidelity: Fidelity | None = None
    prompt_keeping: PromptKeeping | None = None
    drift: DriftFigures | None = None
    diversity: Diversity | None = None
    copies: CopyFigures | None = None
    recited: CopyFigures | None = None
    reproduced: CopyFigures | None = None
    marks: MarkFigures
    falls: Mapping[str, Difference] = field(default_factory=dict)
    following: Following | None = None
    looks: Mapping[Side, Tensor]
    notes: tuple[str, ...] = ()


def open_judge(name: str | None, base: Base, *, device: str, cache: FeatureCache) -> tuple[Judge | None, str]:
    """Who scores the pictures, and why nobody does.

    Args:
        name: hub id or folder; ``None``: the base's own, else the default one where it can be had.
        base: whose pictures are judged.
        device: where the judge runs.
        cache: of its features.

    Raises:
        BaseError: the one that was named cannot be opened.
    """
    if name is not None:
        return Judge.load(name, device=device, cache=cache), ""
    try:
        return Judge.load(judge_of(base.folder), device=device, cache=cache), ""
    except BaseError as error:
        return None, f"Nobody scored the pictures: {error}"


def measure_pixels(drawn: Drawn, *, seeds: int) -> PixelFigures:
    """How far the adapter moves the pictures of new prompts, and what they move by without it."""
    new = drawn.pictures["held_out"]
    first = new["base"][::seeds][: len(drawn.switched_off)]
    return PixelFigures(
        mean_abs_diff=pixels.mean_abs_diff(new["adapter"], new["base"]),
        noise_floor=pixels.noise_floor(first, drawn.switched_off),
        pictures=len(new["base"]),
    )


def measure(
    judge: Judge | None,
    drawn: Drawn,
    material: EvaluationMaterial,
    *,
    seeds: int,
    references: Pictures | None = None,
) -> Figures:
    """Every figure that judge and material allow.

    Args:
        judge: ``None`` leaves out what needs one.
        drawn: of all sides.
        material: that the pictures were asked for by, and what they are compared with.
        seeds: pictures of each prompt.
        references: uint8 (R, H, W, 3), pictures that must not be reproduced.
    """
    new, again = drawn.pictures["held_out"], drawn.pictures.get("recited")
    training = material.training
    originals = training.train if training is not None and len(training.train) else None
    truths = material.truths if material.truths_in_style else None
    unjudged = Figures(
        pixels=measure_pixels(drawn, seeds=seeds),
        copies=None if originals is None else measure_copies(new, originals, truths=truths, judge=judge),
        recited=measure_copies(again, originals, judge=judge) if originals is not None and again else None,
        reproduced=None if references is None else measure_copies(new, references, judge=judge),
        marks=measure_marks(new, originals),
        looks={},
    )
    if judge is None:
        return unjudged
    return _judged(judge, unjudged, drawn, material, seeds)


def _judged(
    judge: Judge, unjudged: Figures, drawn: Drawn, material: EvaluationMaterial, seeds: int
) -> Figures:
    """The figures that need a judge, beside the others."""
    new, asked = drawn.pictures["held_out"], material.asked
    looks = {side: judge.picture_features(pictures) for side, pictures in new.items()}
    truths = None if material.truths is None else judge.picture_features(material.truths)
    fidelity, notes = _fidelity(judge, looks, material, seeds)
    if not asked.facts:
        notes.append("What the prompts ask for is not known word by word: prompt accuracy was not measured.")
    if long := judge.too_long(asked.plain):
        notes.append(f"The judge sees only the beginning of {len(long)} prompts, e.g. '{long[0][:60]}…'.")
    wishes = judge.text_features(asked.plain)
    hits = _hits(judge, new, asked, seeds)
    true_hits = None
    if material.truths is not None and asked.facts:
        true_hits = _hits_of(judge, material.truths, asked, seeds)
    in_style = None
    if truths is not None and material.truths is not None and material.truths_in_style:
        in_style = (material.truths, truths)
    return replace(
        unjudged,
        fidelity=fidelity,
        prompt_keeping=measure_prompt_keeping(
            looks,
            wishes,
            seeds=seeds,
            truths=truths,
            hits=hits,
            true_hits=true_hits,
        ),
        drift=_drift(judge, drawn, material.unrelated, seeds),
        diversity=measure_diversity(
            new, looks, seeds=seeds, share_max=thresholds.COLLAPSE_SHARE_MAX, truths=in_style
        ),
        falls=falls_of(hits["adapter"], [hits["base"], *([true_hits] if true_hits else [])], seeds=seeds)
        if hits
        else {},
        following=measure_following(
            looks["adapter"],
            [looks["base"], *([truths] if truths is not None else [])],
            wishes,
            share_min=thresholds.COLLAPSE_SHARE_MAX,
            seeds=seeds,
        )
        if len(wishes) > 1
        else None,
        looks=looks,
        notes=tuple(notes),
    )


def _fidelity(
    judge: Judge, looks: Mapping[Side, Tensor], material: EvaluationMaterial, seeds: int
) -> tuple[Fidelity | None, list[str]]:
    """Distance to the references, and what could not be measured of it."""
    references, others = material.references, material.others
    if references is None or min(len(references), _count(others)) < MIN_REFERENCES:
        return None, [
            f"There are fewer than {2 * MIN_REFERENCES} pictures of what was to be learned: fidelity was not measured."
        ]
    found = measure_fidelity(
        looks,
        judge.picture_features(references),
        seeds=seeds,
        others=None if others is None else judge.picture_features(others),
        prompt_of_reference=material.prompt_of_reference,
    )
    return found, [found.frechet_left_out] if found.frechet_left_out else []


def _count(pictures: Pictures | None) -> int:
    return 0 if pictures is None else len(pictures)


def _drift(judge: Judge, drawn: Drawn, unrelated: Sequence[Asked], seeds: int) -> DriftFigures | None:
    """Without the trigger, and with it where there is one."""
    sets = [name for name in ("unrelated", "unrelated_with_trigger") if name in drawn.pictures]
    found: list[Drift] = []
    for name, asked in zip(sets, unrelated, strict=True):
        pictures = drawn.pictures[name]
        found.append(
            measure_drift(
                pictures,
                {side: judge.picture_features(rows) for side, rows in pictures.items()},
                judge.text_features(asked.plain),
                seeds=seeds,
                hits=_hits(judge, pictures, asked, seeds),
            )
        )
    if not found:
        return None
    return DriftFigures(without_trigger=found[0], with_trigger=found[1] if len(found) > 1 else None)


def _hits(
    judge: Judge, pictures: Mapping[Side, Pictures], asked: Asked, seeds: int
) -> dict[Side, Hits] | None:
    """Side → slot → whether each picture shows its word; ``None`` where it is not known what it should show."""
    if not asked.facts:
        return None
    # All sides at once: the words to choose among are embedded once.
    found = _hits_of(judge, np.concatenate(list(pictures.values())), asked, seeds)
    count = len(asked.facts) * seeds
    return {
        side: {slot: hits[turn * count : (turn + 1) * count] for slot, hits in found.items()}
        for turn, side in enumerate(pictures)
    }


def _hits_of(judge: Judge, pictures: Pictures, asked: Asked, seeds: int) -> Hits:
    """Slot → whether each picture shows its word.

    Args:
        judge: that reads them.
        pictures: uint8 (sides × prompts × seeds, H, W, 3).
        asked: prompts with their facts.
        seeds: pictures of each prompt on a side.
    """
    facts = [one for one in asked.facts for _ in range(seeds)]
    return judge.prompt_hits(pictures, facts * (len(pictures) // len(facts)), WORDS, _phrase)


def _phrase(facts: PromptFacts) -> str:
    return plain_prompt(facts.object, facts.colour, facts.place)
