"""Measures the pictures of all sides: every figure of an adapter beside the same figure of its controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from detour.evaluation import pixels, thresholds
from detour.evaluation.compared import Compared, Side
from detour.evaluation.copies import CopyFigures, Originals, measure_copies
from detour.evaluation.distance import style_distance
from detour.evaluation.diversity import Diversity, measure_diversity
from detour.evaluation.drift import Drift, measure_drift
from detour.evaluation.evaluation import DriftFigures
from detour.evaluation.fidelity import Fidelity, measure_fidelity
from detour.evaluation.judge import Judge, PromptFacts
from detour.evaluation.marks import MarkFigures, measure_marks
from detour.evaluation.metric import Measured, all_metrics
from detour.evaluation.pixels import Pictures
from detour.evaluation.prompt_keeping import (
    Hits,
    PromptKeeping,
    measure_prompt_keeping,
)
from detour.evaluation.proof import PixelFigures
from detour.pocket.world import plain_prompt
from detour.verbs.judge.material import WORDS, EvaluationMaterial, PromptGroup
from detour.verbs.judge.side_pictures import Drawn

MIN_REFERENCES = 4
"""Smallest number of true pictures from which the distance to a style is measured."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """All figures that were measured; ``None`` where one could not be, with a note that says why.

    Attributes:
        pixels: with the adapter against without; ``None`` where nobody drew the base twice.
        fidelity: distance to the reference pictures.
        prompt_keeping: whether prompts are kept.
        drift: on unrelated prompts.
        diversity: spread of the pictures.
        copies: of training pictures.
        recited: of training pictures, where the prompts are training captions.
        reproduced: of pictures that must not be reproduced.
        marks: in the same place of many pictures.
        metrics: further figures by name.
        picture_features: side → (prompts × seeds, D) features of the pictures of new prompts; empty without a judge.
        notes: what could not be measured, and why.
    """

    pixels: PixelFigures | None = None
    fidelity: Fidelity | None = None
    prompt_keeping: PromptKeeping | None = None
    drift: DriftFigures | None = None
    diversity: Diversity | None = None
    copies: CopyFigures | None = None
    recited: CopyFigures | None = None
    reproduced: CopyFigures | None = None
    marks: MarkFigures | None = None
    metrics: Mapping[str, Compared] = field(default_factory=dict)
    picture_features: Mapping[Side, Tensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def measure_pixels(drawn: Drawn, *, seeds: int) -> PixelFigures:
    """Measure how far the adapter moves pixels, and how far they move without it, from the picture proof if there
    is one.
    """
    if drawn.ways is not None:
        base, adapter, first, off = (
            drawn.ways.base, drawn.ways.adapter, drawn.ways.base, drawn.ways.switched_off,
        )  # fmt: skip
    else:
        assert drawn.switched_off is not None, (
            "neither a picture proof nor a batch with the adapter switched off"
        )
        new, off = drawn.pictures["held_out"], drawn.switched_off
        base, adapter, first = new["base"], new["adapter"], new["base"][::seeds][: len(off)]
    return PixelFigures(
        mean_abs_diff=pixels.mean_abs_diff(adapter, base),
        noise_floor=pixels.noise_floor(first, off),
        pictures=len(base),
    )


def measure(
    judge: Judge | None,
    drawn: Drawn,
    material: EvaluationMaterial,
    *,
    seeds: int,
    references: Pictures | None = None,
) -> Figures:
    """Measure every figure that the judge and the material allow.

    Args:
        judge: ``None`` leaves out what needs one.
        drawn: of all sides.
        material: that the pictures were asked for by, and what they are compared with.
        seeds: pictures of each prompt.
        references: uint8 (R, H, W, 3), pictures that must not be reproduced.
    """
    moved = measure_pixels(drawn, seeds=seeds)
    return measure_sides(judge, drawn, material, moved, seeds=seeds, references=references)


def measure_sides(
    judge: Judge | None,
    drawn: Drawn,
    material: EvaluationMaterial,
    moved: PixelFigures | None,
    *,
    seeds: int,
    references: Pictures | None = None,
) -> Figures:
    """Measure as :func:`measure` does where the base was not drawn twice, as for a checkpoint; ``moved`` is
    ``None``.
    """
    new, again = drawn.pictures.get("held_out"), drawn.pictures.get("recited")
    training = material.training
    trained_on = training.train if training is not None and len(training.train) else None
    if new is None:
        return Figures(pixels=moved)
    originals = None if trained_on is None else Originals(trained_on)
    unjudged = Figures(
        pixels=moved,
        copies=None
        if originals is None
        else measure_copies(new, originals, truths=material.truths, judge=judge),
        recited=measure_copies(again, originals, judge=judge) if originals is not None and again else None,
        reproduced=None if references is None else measure_copies(new, references, judge=judge),
        marks=measure_marks(new, trained_on),
    )
    if judge is None:
        return unjudged
    return _judged(judge, unjudged, drawn, material, seeds)


def _judged(
    judge: Judge, unjudged: Figures, drawn: Drawn, material: EvaluationMaterial, seeds: int
) -> Figures:
    """Measure the figures that need a judge."""
    new, group = drawn.pictures["held_out"], material.new_prompts
    picture_features = {side: judge.picture_features(pictures) for side, pictures in new.items()}
    truths = None if material.truths is None else judge.picture_features(material.truths)
    fidelity, notes = _fidelity(judge, picture_features, material, seeds)
    if not group.facts:
        notes.append("What the prompts ask for is not known word by word: prompt accuracy was not measured.")
    if long := judge.too_long(group.plain):
        notes.append(f"The judge sees only the beginning of {len(long)} prompts, e.g. '{long[0][:60]}…'.")
    prompt_features = judge.text_features(group.plain)
    hits = _hits(judge, new, group, seeds)
    true_hits = None
    if material.truths is not None and group.facts:
        true_hits = hits_of(judge, material.truths, group, seeds)
    elif material.own is not None and material.own_facts and group.facts:
        true_hits = hits_of(judge, material.own, replace(group, facts=material.own_facts), 1)
    in_style = None
    if truths is not None and material.truths is not None:
        in_style = (material.truths, truths)
    return replace(
        unjudged,
        fidelity=fidelity,
        prompt_keeping=measure_prompt_keeping(
            picture_features,
            prompt_features,
            seeds=seeds,
            truths=truths,
            hits=hits,
            true_hits=true_hits,
        ),
        drift=_drift(judge, drawn, material.unrelated, seeds),
        diversity=measure_diversity(
            new, picture_features, seeds=seeds, share_max=thresholds.COLLAPSE_SHARE_MAX, truths=in_style
        ),
        metrics=_further(judge, new, picture_features, prompt_features, material, seeds),
        picture_features=picture_features,
        notes=tuple(notes),
    )


def _further(
    judge: Judge,
    pictures: Mapping[Side, Pictures],
    picture_features: Mapping[Side, Tensor],
    texts: Tensor,
    material: EvaluationMaterial,
    seeds: int,
) -> dict[str, Compared]:
    own = None if material.own is None else judge.picture_features(material.own)
    given = Measured(pictures=pictures, picture_features=picture_features, texts=texts, own=own, seeds=seeds)
    found = {one.name: one.measure(given) for one in all_metrics()}
    return {name: figure for name, figure in found.items() if figure is not None}


def _fidelity(
    judge: Judge, picture_features: Mapping[Side, Tensor], material: EvaluationMaterial, seeds: int
) -> tuple[Fidelity | None, list[str]]:
    """Measure the distance to the reference pictures, and say what of it could not be measured."""
    references, others = material.references, material.others
    if references is None or min(len(references), _count(others)) < MIN_REFERENCES:
        return None, [
            f"There are fewer than {2 * MIN_REFERENCES} pictures of what was to be learned: fidelity was not measured."
        ]
    found = measure_fidelity(
        picture_features,
        judge.picture_features(references),
        seeds=seeds,
        others=None if others is None else judge.picture_features(others),
        prompt_of_reference=material.prompt_of_reference,
    )
    return found, [found.frechet_left_out] if found.frechet_left_out else []


def _count(pictures: Pictures | None) -> int:
    return 0 if pictures is None else len(pictures)


def _drift(judge: Judge, drawn: Drawn, unrelated: Sequence[PromptGroup], seeds: int) -> DriftFigures | None:
    """Measure the drift of unrelated prompts without the trigger, and with it where there is one."""
    sets = [name for name in ("unrelated", "unrelated_with_trigger") if name in drawn.pictures]
    found: list[Drift] = []
    for name, group in zip(sets, unrelated, strict=True):
        pictures = drawn.pictures[name]
        found.append(
            measure_drift(
                pictures,
                {side: judge.picture_features(rows) for side, rows in pictures.items()},
                judge.text_features(group.plain),
                seeds=seeds,
                hits=_hits(judge, pictures, group, seeds),
            )
        )
    if not found:
        return None
    return DriftFigures(without_trigger=found[0], with_trigger=found[1] if len(found) > 1 else None)


def _hits(
    judge: Judge, pictures: Mapping[Side, Pictures], group: PromptGroup, seeds: int
) -> dict[Side, Hits] | None:
    """Side → slot → whether each picture shows its word; ``None`` where the expected words are not known."""
    if not group.facts:
        return None
    # All sides at once: the words to choose among are embedded once.
    found = hits_of(judge, np.concatenate(list(pictures.values())), group, seeds)
    count = len(group.facts) * seeds
    return {
        side: {slot: hits[turn * count : (turn + 1) * count] for slot, hits in found.items()}
        for turn, side in enumerate(pictures)
    }


def nearest_of(
    judge: Judge | None, figures: Figures, drawn: Drawn, material: EvaluationMaterial
) -> tuple[int, ...]:
    """Find for each picture of a new prompt the nearest of the user's own pictures; empty where there are none.

    The judge's features decide; without a judge, thumbnails do.
    """
    new, own = drawn.pictures.get("held_out"), material.own
    if new is None or own is None:
        return ()
    if judge is not None and figures.picture_features:
        near = figures.picture_features["adapter"] @ judge.picture_features(own).T
        return tuple(int(index) for index in near.argmax(1))
    mine, theirs = (pixels.thumbnails(one).reshape(len(one), -1) for one in (new["adapter"], own))
    return tuple(int(np.abs(theirs - row).mean(1).argmin()) for row in mine)


def hits_of(judge: Judge, pictures: Pictures, group: PromptGroup, seeds: int) -> Hits:
    """Slot → whether each picture shows its word.

    Args:
        judge: that reads them.
        pictures: uint8 (sides × prompts × seeds, H, W, 3).
        group: prompts with their facts.
        seeds: pictures of each prompt on a side.
    """
    facts = [one for one in group.facts for _ in range(seeds)]
    words = {slot: WORDS[slot] for slot in group.slots}
    return judge.prompt_hits(pictures, facts * (len(pictures) // len(facts)), words, _phrase)


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """Scores the pictures of one side in the way in which runs of a comparison are scored.

    Attributes:
        judge: that looks at them.
        material: prompts and references.
        likeness_to: uint8 (N, H, W, 3), what a subject looks like; ``None`` for a style.
    """

    judge: Judge
    material: EvaluationMaterial
    likeness_to: Pictures | None = None

    @cached_property
    def _references(self) -> Tensor | None:
        references, others = self.material.references, self.material.others
        if references is None or min(len(references), _count(others)) < MIN_REFERENCES:
            return None
        return self.judge.picture_features(references)

    @cached_property
    def _likeness(self) -> Tensor | None:
        if self.likeness_to is None:
            return None
        return torch.nn.functional.normalize(self.judge.picture_features(self.likeness_to).mean(0), dim=0)

    @cached_property
    def _texts(self) -> Tensor:
        return self.judge.text_features(self.material.new_prompts.prompts)

    def scores(self, pictures: Pictures) -> dict[str, float]:
        """Measure ``style_distance`` or ``likeness``, the share of each part of the prompts that is shown, and
        ``clip``.

        Args:
            pictures: uint8 (prompts, H, W, 3), one of each prompt.
        """
        picture_features = self.judge.picture_features(pictures)
        found: dict[str, float] = {}
        if self._references is not None:
            found["style_distance"] = style_distance(picture_features, self._references)
        if self._likeness is not None:
            found["likeness"] = float((picture_features @ self._likeness).mean())
        if self.material.new_prompts.facts:
            hits = hits_of(self.judge, pictures, self.material.new_prompts, 1)
            found |= {slot: sum(row) / len(row) for slot, row in hits.items()}
        found["clip"] = float((picture_features * self._texts).sum(-1).mean())
        return found


def _phrase(facts: PromptFacts) -> str:
    return plain_prompt(facts.object, facts.colour, facts.place)
