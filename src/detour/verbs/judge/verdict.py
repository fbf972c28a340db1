"""The verdict on an adapter from its figures and its run, by one set of rules for every preset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor

from detour.adapters.adapter import Adapter
from detour.evaluation import limits, pixels, thresholds
from detour.evaluation.causes import AdapterState, causes_of_no_effect
from detour.evaluation.copies import CopyFigures
from detour.evaluation.judge import Judge
from detour.evaluation.judgement import Judgement
from detour.evaluation.judgement import judge as judge_material
from detour.evaluation.next_steps import Doubts, RunFacts, next_step
from detour.evaluation.proof import (
    AccuracyFigures,
    HeldOutFigures,
    PixelFigures,
    PromptAccuracy,
    StyleDistance,
)
from detour.evaluation.raw_material import ClassSides, Material, PixelFacts, Slot
from detour.evaluation.reading import Rows
from detour.evaluation.subject_likeness import SubjectLikeness, measure_subject
from detour.evaluation.verdict import HEADLINES, Checks, Evidence, Verdict, decide
from detour.training.optimizers import larger_steps
from detour.verbs.judge.figures import Figures
from detour.verbs.judge.finished_run import FinishedRun, chosen_step, schedule_fault_of
from detour.verbs.judge.material import Choice, EvaluationMaterial
from detour.verbs.judge.side_pictures import Drawn


@dataclass(frozen=True, kw_only=True)
class OfRun:
    """Facts that a run states about itself, beside its pictures.

    Attributes:
        checks: of gradients, reload and merge.
        validation: loss on pictures kept out, up to the weights that are judged.
        causes: why nothing changed; asked only where nothing did.
        notes: what could not be measured, and why.
        data: what is wrong with the pictures and captions that were trained on.
        run: names and settings, for the command that comes next.
        margin: share of what prompts ask for whose loss has to be ruled out.
    """

    checks: Checks = field(default_factory=Checks)
    validation: tuple[float, ...] = ()
    causes: Callable[[], tuple[str, ...]] = tuple
    notes: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    run: RunFacts = field(default_factory=RunFacts)
    margin: float = limits.QUICK_MARGIN


def verdict_of(
    judge: Judge | None, figures: Figures, drawn: Drawn, material: EvaluationMaterial, of_run: OfRun
) -> tuple[Verdict, Judgement | None]:
    """Verdict on a run or an adapter with its reasons, and the answers from the judge's features.

    Args:
        judge: ``None``: nobody looks at the pictures.
        figures: that were measured.
        drawn: of all sides.
        material: that they were compared with.
        of_run: what the run says.
    """
    facts, moved = _pixel_facts(figures, drawn, material, of_run)
    judged = None if judge is None else _judged(judge, figures, drawn, material, of_run, facts)
    verdict = decide(
        Evidence(
            pixels=facts,
            moved=moved,
            judged=judged,
            checks=of_run.checks,
            causes=of_run.causes,
            notes=of_run.notes,
            data=of_run.data,
            run=of_run.run,
        )
    )
    by_heart = (
        "Asked with training captions, {share} of the pictures copy a training picture; of the base's {base}."
    )
    works = "{share} of the pictures copy one that must not be reproduced; of the base's {base}."
    then = next_step("copies", of_run.run, Doubts(data=False, judge=False, prompts=0))
    verdict = with_copies(verdict, figures.recited, by_heart, then=then)
    return with_copies(verdict, figures.reproduced, works, then=then), judged


def _pixel_facts(
    figures: Figures, drawn: Drawn, material: EvaluationMaterial, of_run: OfRun
) -> tuple[PixelFacts, PixelFigures]:
    new, seeds = drawn.pictures.get("held_out"), 1
    if new is None:
        assert drawn.ways is not None, "nothing was drawn"
        base, adapter = drawn.ways.base, drawn.ways.adapter
    else:
        base, adapter, seeds = (
            new["base"],
            new["adapter"],
            len(new["base"]) // len(material.new_prompts.prompts),
        )
    moved = figures.pixels or PixelFigures(
        mean_abs_diff=pixels.mean_abs_diff(adapter, base), noise_floor=0.0, pictures=len(base)
    )
    expected = [pixels.diversity(base, seeds=seeds)]
    if new is not None and material.own is not None and len(material.own) > 1:
        expected.append(pixels.diversity(material.own))
    copied = None if figures.copies is None else figures.copies.share
    facts = PixelFacts(
        effect=moved.mean_abs_diff,
        noise_floor=moved.noise_floor,
        black=max(0, pixels.black(adapter) - pixels.black(base)),
        diversity=pixels.diversity(adapter, seeds=seeds),
        diversity_expected=min(expected),
        copied=None if copied is None else copied.adapter,
        copied_base=0.0 if copied is None else copied.base,
        validation=of_run.validation,
    )
    return facts, moved


def _judged(
    judge: Judge,
    figures: Figures,
    drawn: Drawn,
    material: EvaluationMaterial,
    of_run: OfRun,
    facts: PixelFacts,
) -> Judgement | None:
    """Answers of the rules on the judge's features; ``None`` where there is too little material."""
    own, group = material.own, material.new_prompts
    if own is None or len(set(group.plain)) < 2 or not figures.picture_features:
        return None
    own_class = drawn.pictures.get("own_class")
    sides = None
    if own_class is not None:
        sides = ClassSides(
            adapter=_rows(judge.picture_features(own_class["adapter"])),
            base=_rows(judge.picture_features(own_class["base"])),
        )
    captions = material.own_captions
    return judge_material(
        Material(
            goal="subject" if sides is not None else "style",
            scale=judge.scale,
            prompts=_rows(judge.text_features(group.plain)),
            base=_rows(figures.picture_features["base"]),
            adapter=_rows(figures.picture_features["adapter"]),
            seeds=len(figures.picture_features["base"]) // len(group.prompts),
            references=_rows(judge.picture_features(own)),
            kept_out=0 if material.training is None else len(material.training.held_out),
            captions=_rows(judge.text_features(captions)) if any(captions) else None,
            slots={
                name: _slot(judge, choice, material.own_choices.get(name))
                for name, choice in group.choices.items()
            },
            own_class=sides,
            pixels=facts,
            margin=of_run.margin,
            run=of_run.run,
        )
    )


def likeness_without_prior(
    judge: Judge | None, figures: Figures, drawn: Drawn, material: EvaluationMaterial
) -> SubjectLikeness | None:
    """Likeness of the control without class pictures to the subject; ``None`` where no such control was drawn."""
    own, own_class = material.own, drawn.pictures.get("own_class")
    if judge is None or own is None or own_class is None or "no_prior" not in figures.picture_features:
        return None
    return measure_subject(
        adapter=_rows(figures.picture_features["no_prior"]),
        base=_rows(figures.picture_features["base"]),
        class_adapter=_rows(judge.picture_features(own_class["no_prior"])),
        class_base=_rows(judge.picture_features(own_class["base"])),
        references=_rows(judge.picture_features(own)),
        seeds=len(figures.picture_features["base"]) // len(material.new_prompts.prompts),
    )


def _slot(judge: Judge, group: Choice, own: Choice | None) -> Slot:
    def phrases(choice: Choice) -> Rows:
        distinct = list(dict.fromkeys(phrase for row in choice.phrases for phrase in row))
        rows = dict(zip(distinct, _rows(judge.text_features(distinct)), strict=True))
        return np.stack([[rows[phrase] for phrase in row] for row in choice.phrases])

    return Slot(
        phrases=phrases(group),
        right=np.array(group.right),
        reference_phrases=None if own is None else phrases(own),
        reference_right=None if own is None else np.array(own.right),
    )


def _rows(features: Tensor) -> Rows:
    rows: Rows = features.double().numpy()
    return rows


def with_copies(verdict: Verdict, found: CopyFigures | None, sentence: str, *, then: str = "") -> Verdict:
    """Verdict after the search for copies, which the proof leaves out: too many of them make it ``copies``.

    Whatever speaks against the adapter already keeps the word; the sentence stands among the reasons.

    Args:
        verdict: by the proof's rules.
        found: copies among the pictures of a set of prompts; ``None``: not looked for.
        sentence: with places for ``share`` and ``base``.
        then: the command that comes after ``copies``.
    """
    if found is None or not found.share.adapter:
        return verdict
    said = sentence.format(share=f"{found.share.adapter:.0%}", base=f"{found.share.base:.0%}")
    sound = verdict.name in ("learned", "inconclusive")
    if not sound or found.beyond_base <= thresholds.COPY_SHARE_MAX + 1e-9:  # as in the proof's rule
        return replace(verdict, reasons=(*verdict.reasons, said))
    return replace(
        verdict,
        name="copies",
        headline=HEADLINES["copies"],
        reasons=(said, *verdict.reasons),
        next_step=then,
    )


def held_out_figures(figures: Figures, material: EvaluationMaterial, seeds: int) -> HeldOutFigures:
    """Figures of new prompts in the form of the proof."""
    fidelity, kept = figures.fidelity, figures.prompt_keeping
    distance = None
    if fidelity is not None:
        mmd = fidelity.style_distance
        distance = StyleDistance(base=mmd.base, adapter=mmd.adapter, ceiling=mmd.ceiling or 0.0)
    accuracy = None
    if kept is not None and kept.parts is not None:
        shares = {name: part.share for name, part in kept.parts.items()}
        sides = {
            side: None if None in parts.values() else PromptAccuracy.model_validate(parts)
            for side in ("base", "adapter", "ceiling")
            for parts in [{name: getattr(share, side) for name, share in shares.items()}]
        }
        accuracy = AccuracyFigures.model_validate(sides)
    return HeldOutFigures(
        prompts=len(material.new_prompts.prompts),
        seeds=seeds if material.new_prompts.prompts else 0,
        style_distance=distance,
        prompt_accuracy=accuracy,
    )


def causes_of(
    run: FinishedRun, adapter: Adapter, weight: float, layers_matched: int, trained_diff: float | None = None
) -> tuple[str, ...]:
    """Sentences on why an adapter changes nothing.

    Args:
        run: that it comes from.
        adapter: that was attached.
        weight: of it.
        layers_matched: of its layers, those that the base has.
        trained_diff: mean change that the trained model's own pictures show; ``None`` where they were not kept.
    """
    rate = run.spec.train.optim.lr
    layers = adapter.layers.values()
    state = AdapterState(
        learning_rate=rate if isinstance(rate, float) else None,
        weight=weight,
        layers=tuple(adapter.layers),
        layers_matched=layers_matched,
        up_is_zero=bool(layers)
        and all(layer.kind == "lora" and not layer.tensors["up"].any() for layer in layers),
        trained_diff=trained_diff,
        best_step=chosen_step(run),
        schedule_fault=schedule_fault_of(run.spec),
        larger_steps=larger_steps(run.spec.train.optim.name),
    )
    return causes_of_no_effect(state, effect_min_diff=thresholds.EFFECT_MIN_DIFF)
