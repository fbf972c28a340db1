"""Chooses which checkpoint of a run to ship, from figures of each on the same new prompts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from detour.evaluation.compared import Compared, Part
from detour.evaluation.distance import style_distance
from detour.evaluation.proof import VerdictName

SHIPPABLE: tuple[VerdictName, ...] = ("learned", "inconclusive")
"""Verdicts with which a checkpoint may be shipped, the better one first."""

Distance = Callable[[Tensor, Tensor], float]


class CheckpointFigure(Part):
    """Figures of one checkpoint on the prompts that all checkpoints draw."""

    step: int
    held_out_loss: float | None
    """Loss on held-out pictures at fixed timesteps, at this step or the nearest one before it."""
    style_distance: Compared | None
    accuracy: dict[str, Compared]
    """Part of the prompt (object, colour, place) → share that was drawn; empty where it cannot be judged."""
    diversity: Compared
    """Mean difference of pictures of different prompts, in steps of 255."""
    copied: Compared | None
    """Share of pictures that copy a training picture; ``None`` where there were none to compare with."""
    verdict: VerdictName
    reason: str
    behind_best: float | None
    """Difference of the style distance to that of the best one of the chosen tier."""
    standard_error: float | None
    """Standard error over prompts of :attr:`behind_best`."""


class CheckpointFigures(Part):
    """Figures of all checkpoints of a run in order of steps; the last is the end of the run."""

    schema_: int = Field(default=1, alias="schema")
    prompts: int
    seeds: int
    checkpoints: tuple[CheckpointFigure, ...]
    chosen_step: int
    sound: bool
    """Whether nothing counts against the chosen checkpoint; otherwise it is the least bad."""
    reason: str


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Figures of one checkpoint that the rule reads.

    Attributes:
        step: of the checkpoint.
        verdict: of its pictures and of the loss up to it.
        held_out_loss: on pictures kept out.
        features: (N, D) float32 of its pictures, prompt-major, rows of length one; ``None`` without a judge.
    """

    step: int
    verdict: VerdictName
    held_out_loss: float | None = None
    features: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Behind:
    """Difference of a candidate's style distance to the best one's, and its standard error."""

    difference: float
    standard_error: float


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The checkpoint to ship, and why.

    Attributes:
        step: of it.
        sound: whether nothing speaks against it.
        reason: one sentence.
        behind: step → how far behind the best one, for those that were compared by their pictures.
    """

    step: int
    sound: bool
    reason: str
    behind: dict[int, Behind]


def choose(candidates: Sequence[Candidate], references: Tensor | None, *, seeds: int = 1) -> Choice:
    """Choose the checkpoint to ship.

    Those that learned come before those without a measured gain, and these before those that something speaks
    against. Among equals the nearest to the style is the best, and the earliest one that lies within one standard
    error of it is chosen: a later one that is not measurably better has only had more time to forget and to copy
    (the one-standard-error rule, Breiman et al. 1984, section 3.4.3). Without a judge or true pictures the lowest
    held-out loss decides, without that the last step.

    Args:
        candidates: at least one, in the order of their steps.
        references: (M, D) features of true pictures of the style.
        seeds: pictures of each prompt.
    """
    tier, sound = _best_tier(candidates)
    name = tier[0].verdict
    which = f"all {len(tier)} are '{name}'" if len(tier) > 1 else f"it alone is '{name}'"
    if len(tier) == len(candidates) == 1:
        which = f"it is the only one, and '{name}'"
    behind: dict[int, Behind] = {}
    if references is not None and all(one.features is not None for one in tier):
        behind = _behind(tier, references, seeds)
        best = min(tier, key=lambda one: behind[one.step].difference)
        chosen = next(one for one in tier if behind[one.step].difference <= behind[one.step].standard_error)
        why = (
            f"its pictures are the nearest to the style ({which})"
            if chosen is best
            else f"its pictures are as near to the style as the best ones, of step {best.step}, within one standard "
            f"error, and it is the earliest of those ({which})"
        )
    elif all(one.held_out_loss is not None for one in tier):
        chosen = min(tier, key=lambda one: one.held_out_loss or 0.0)
        why = f"its loss on pictures kept out is the lowest ({which})"
    else:
        chosen, why = tier[-1], f"it is the last one, and nothing measures which is better ({which})"
    if sound:
        return Choice(step=chosen.step, sound=True, reason=f"Step {chosen.step}: {why}.", behind=behind)
    reason = f"None is good: something speaks against each. The least bad is step {chosen.step}: {why}."
    return Choice(step=chosen.step, sound=False, reason=reason, behind=behind)


def _best_tier(candidates: Sequence[Candidate]) -> tuple[list[Candidate], bool]:
    for name in SHIPPABLE:
        tier = [one for one in candidates if one.verdict == name]
        if tier:
            return tier, True
    return list(candidates), False


def _behind(tier: Sequence[Candidate], references: Tensor, seeds: int) -> dict[int, Behind]:
    features = {one.step: one.features for one in tier if one.features is not None}
    distances = {step: style_distance(rows, references) for step, rows in features.items()}
    best = min(distances, key=lambda step: distances[step])
    return {
        step: Behind(
            difference=distances[step] - distances[best],
            standard_error=0.0
            if step == best
            else paired_standard_error(rows, features[best], references, seeds=seeds),
        )
        for step, rows in features.items()
    }


def paired_standard_error(
    x: Tensor, y: Tensor, references: Tensor, *, seeds: int = 1, distance: Distance = style_distance
) -> float:
    """Standard error of ``distance(x, references) - distance(y, references)`` over the prompts, by the jackknife.

    A prompt is left out with all its pictures on both sides, because pictures of one prompt are alike.

    Args:
        x: (N, D) features, prompt-major.
        y: (N, D), the same prompts and seeds.
        references: (M, D).
        seeds: pictures of each prompt; divides N.
        distance: of a set to the references.

    Returns:
        0 for fewer than two prompts.

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, equation 11.5.
    """
    prompts = len(x) // seeds
    if prompts < 2:
        return 0.0
    of_row = torch.arange(len(x)) // seeds
    left = torch.tensor(
        [
            distance(x[of_row != prompt], references) - distance(y[of_row != prompt], references)
            for prompt in range(prompts)
        ],
        dtype=torch.float64,
    )
    return float(((prompts - 1) * left.var(unbiased=False)).sqrt())
