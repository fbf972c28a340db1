"""The verdict of an evaluation: its own figures, and what the run's proof already holds, under the proof's rules."""

from __future__ import annotations

from collections.abc import Callable

from detour.adapters.adapter import Adapter
from detour.evaluation import pixels, thresholds
from detour.evaluation.causes import AdapterState, causes_of_no_effect
from detour.evaluation.copies import CopyFigures
from detour.evaluation.proof import (
    AccuracyFigures,
    HeldOutFigures,
    PromptAccuracy,
    Proof,
    StyleDistance,
    read_proof,
)
from detour.evaluation.proof_pictures import proof_dtype
from detour.evaluation.verdict import Evidence, Verdict, decide, has_effect
from detour.recipes.evaluation_figures import Figures
from detour.recipes.evaluation_material import EvaluationMaterial
from detour.recipes.evaluation_pictures import Drawn
from detour.recipes.finished_run import FinishedRun, schedule_fault_of
from detour.recipes.prove_run import chosen_step, validation_of
from detour.training.optimizers import larger_steps


def judge_run(
    run: FinishedRun,
    adapter: Adapter,
    figures: Figures,
    drawn: Drawn,
    material: EvaluationMaterial,
    *,
    weight: float,
    layers_matched: Callable[[], int],
) -> Verdict:
    """One word for the run or the adapter, and why.

    Args:
        run: what is judged; its gradient proof and its curves count too.
        adapter: that was attached.
        figures: that were measured.
        drawn: of all sides.
        material: that they were compared with.
        weight: of the adapter.
        layers_matched: counts the adapter's layers that the base has; asked only where nothing changed.

    Raises:
        RunError: ``proof.json`` is there and damaged.
    """
    proof, notes = _proof_of(run)
    effect = has_effect(figures.pixels)
    new = drawn.pictures["held_out"]
    seeds = len(new["base"]) // len(material.asked.prompts)
    expected = [pixels.diversity(new["base"], seeds=seeds)]
    if material.truths is not None and material.truths_in_style:
        expected.append(pixels.diversity(material.truths, seeds=seeds))
    copied = None if figures.copies is None else figures.copies.share
    verdict = decide(
        Evidence(
            gradients=run.gradients,
            pixels=figures.pixels,
            reload_diff=None if proof is None else proof.reload.max_abs_diff,
            merge_diff=None if proof is None else proof.merge.max_abs_diff,
            exact=proof_dtype(run.spec) == "fp32",
            held_out=held_out_figures(figures),
            style_p_value=None if figures.fidelity is None else figures.fidelity.nearer_p,
            causes=() if effect else _causes(run, adapter, weight, layers_matched()),
            falls=figures.falls,
            following=figures.following,
            validation=validation_of(run),
            validation_lost=run.validation_lost,
            diversity=pixels.diversity(new["adapter"], seeds=seeds),
            diversity_expected=min(expected),
            copied_share=None if copied is None else copied.adapter,
            copied_share_base=0.0 if copied is None else copied.base,
            notes=(*run.problems, *notes),
        )
    )
    by_heart = (
        "Asked with training captions, {share} of the pictures copy a training picture; of the base's {base}."
    )
    works = "{share} of the pictures copy one that must not be reproduced; of the base's {base}."
    return with_copies(with_copies(verdict, figures.recited, by_heart), figures.reproduced, works)


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


def held_out_figures(figures: Figures) -> HeldOutFigures:
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
        prompts=0 if kept is None else kept.prompts,
        seeds=0 if kept is None else kept.seeds,
        style_distance=distance,
        prompt_accuracy=accuracy,
    )


def _proof_of(run: FinishedRun) -> tuple[Proof | None, tuple[str, ...]]:
    """What the run's proof says of reload and merge, which an evaluation does not draw again."""
    path = run.folder / "proof.json"
    if run.is_run and path.exists():
        return read_proof(path), ()
    return None, ("Reload and merge were not compared here: detour prove does that.",)


def _causes(run: FinishedRun, adapter: Adapter, weight: float, layers_matched: int) -> tuple[str, ...]:
    rate = run.spec.train.optim.lr
    layers = adapter.layers.values()
    state = AdapterState(
        learning_rate=rate if run.is_run and isinstance(rate, float) else None,
        weight=weight,
        layers=tuple(adapter.layers),
        layers_matched=layers_matched,
        up_is_zero=bool(layers)
        and all(layer.kind == "lora" and not layer.tensors["up"].any() for layer in layers),
        trained_diff=None,
        best_step=chosen_step(run),
        schedule_fault=schedule_fault_of(run.spec),
        larger_steps=larger_steps(run.spec.train.optim.name),
    )
    return causes_of_no_effect(state, effect_min_diff=thresholds.EFFECT_MIN_DIFF)
