"""The verdict on an adapter, by its figures and by what its run says of itself: one set of rules for every preset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from detour.adapters.adapter import Adapter
from detour.evaluation import pixels, thresholds
from detour.evaluation.causes import AdapterState, causes_of_no_effect
from detour.evaluation.copies import CopyFigures
from detour.evaluation.proof import (
    AccuracyFigures,
    GradientFigures,
    HeldOutFigures,
    PromptAccuracy,
    StyleDistance,
)
from detour.evaluation.verdict import (
    Evidence,
    PictureEvidence,
    Verdict,
    decide,
    decide_pictures,
    has_effect,
)
from detour.recipes.evaluation_figures import Figures
from detour.recipes.evaluation_material import EvaluationMaterial
from detour.recipes.evaluation_pictures import Drawn
from detour.recipes.finished_run import FinishedRun


@dataclass(frozen=True, kw_only=True)
class OfRun:
    """What a run says of itself, beside its pictures.

    Attributes:
        gradients: of the gradient proof.
        validation: loss on pictures kept out, up to the weights that are judged.
        reload_diff: largest difference of the reloaded file's pictures to the trained model's.
        merge_diff: the same for the merged base against the adapter.
        merge_mean: mean difference of those.
        exact: whether the pictures were drawn in fp32.
        notes: what could not be measured, and why.
    """

    gradients: GradientFigures | None = None
    validation: tuple[float, ...] = ()
    reload_diff: int | None = None
    merge_diff: int | None = None
    merge_mean: float | None = None
    exact: bool = True
    notes: tuple[str, ...] = ()


def verdict_of(
    figures: Figures,
    drawn: Drawn,
    material: EvaluationMaterial,
    of_run: OfRun,
    causes: Callable[[], tuple[str, ...]],
) -> Verdict:
    """One word for the run or the adapter, and why.

    Args:
        figures: that were measured.
        drawn: of all sides.
        material: that they were compared with.
        of_run: what the run says.
        causes: why nothing changed; asked only where nothing did.
    """
    seen = _seen(figures, drawn, material, of_run)
    if figures.pixels is None:
        return decide_pictures(PictureEvidence(**seen))
    verdict = decide(
        Evidence(
            **seen,
            gradients=of_run.gradients,
            pixels=figures.pixels,
            reload_diff=of_run.reload_diff,
            merge_diff=of_run.merge_diff,
            merge_mean=of_run.merge_mean,
            exact=of_run.exact,
            causes=() if has_effect(figures.pixels) else causes(),
            notes=of_run.notes,
        )
    )
    by_heart = (
        "Asked with training captions, {share} of the pictures copy a training picture; of the base's {base}."
    )
    works = "{share} of the pictures copy one that must not be reproduced; of the base's {base}."
    return with_copies(with_copies(verdict, figures.recited, by_heart), figures.reproduced, works)


def _seen(figures: Figures, drawn: Drawn, material: EvaluationMaterial, of_run: OfRun) -> dict[str, Any]:
    """The part of the evidence that one set of weights has."""
    new, seeds = drawn.pictures.get("held_out"), 1
    if new is None:
        assert drawn.ways is not None, "nothing was drawn"
        base, adapter, true = drawn.ways.base, drawn.ways.adapter, None
    else:
        base, adapter, seeds = new["base"], new["adapter"], len(new["base"]) // len(material.asked.prompts)
        true = material.truths if material.truths_in_style else None
    expected = [pixels.diversity(one, seeds=seeds) for one in (base, true) if one is not None]
    copied = None if figures.copies is None else figures.copies.share
    return {
        "held_out": held_out_figures(figures, material, seeds),
        "style_p_value": None if figures.fidelity is None else figures.fidelity.nearer_p,
        "falls": figures.falls,
        "following": figures.following,
        "validation": of_run.validation,
        "diversity": pixels.diversity(adapter, seeds=seeds),
        "diversity_expected": min(expected),
        "copied_share": None if copied is None else copied.adapter,
        "copied_share_base": 0.0 if copied is None else copied.base,
    }


def with_copies(verdict: Verdict, found: CopyFigures | None, sentence: str) -> Verdict:
    """The verdict, with copies that the proof does not look for: too many of them are ``copies``.

    Whatever speaks against the adapter already keeps the word; the sentence stands among the reasons.

    Args:
        verdict: by the proof's rules.
        found: copies among the pictures of a set of prompts; ``None``: not looked for.
        sentence: with places for ``share`` and ``base``.
    """
    if found is None or not found.share.adapter:
        return verdict
    said = sentence.format(share=f"{found.share.adapter:.0%}", base=f"{found.share.base:.0%}")
    sound = verdict.name in ("learned", "inconclusive")
    if not sound or found.beyond_base <= thresholds.COPY_SHARE_MAX + 1e-9:  # as in the proof's rule
        return Verdict(name=verdict.name, reasons=(*verdict.reasons, said))
    return Verdict(name="copies", reasons=(said, *verdict.reasons))


def held_out_figures(figures: Figures, material: EvaluationMaterial, seeds: int) -> HeldOutFigures:
    """The figures as the proof has them."""
    fidelity, kept = figures.fidelity, figures.prompt_keeping
    distance = None
    if fidelity is not None:
        mmd = fidelity.style_distance
        distance = StyleDistance(base=mmd.base, adapter=mmd.adapter, ceiling=mmd.ceiling or 0.0)
    accuracy = None
    if kept is not None and kept.parts is not None:
        shares = {name: part.share for name, part in kept.parts.items()}
        base = PromptAccuracy(**{name: share.base for name, share in shares.items()})
        accuracy = AccuracyFigures(
            base=base,
            adapter=PromptAccuracy(**{name: share.adapter for name, share in shares.items()}),
            ceiling=PromptAccuracy(
                **{
                    name: share.base if share.ceiling is None else share.ceiling
                    for name, share in shares.items()
                }
            ),
        )
    return HeldOutFigures(
        prompts=len(material.asked.prompts),
        seeds=seeds if material.asked.prompts else 0,
        style_distance=distance,
        prompt_accuracy=accuracy,
    )


def causes_of(
    run: FinishedRun, adapter: Adapter, weight: float, layers_matched: int, trained_diff: float | None = None
) -> tuple[str, ...]:
    """Why an adapter changes nothing.

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
        best_step=run.state.get("best_step"),
    )
    return causes_of_no_effect(state, effect_min_diff=thresholds.EFFECT_MIN_DIFF)
