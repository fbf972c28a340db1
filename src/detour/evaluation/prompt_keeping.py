"""Whether the adapter's pictures still show what their prompts ask for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from torch import Tensor

from detour.evaluation.change import Change, change_over_prompts, over_seeds
from detour.evaluation.compared import Compared, Part, Side
from detour.evaluation.differences import Difference, paired_difference
from detour.evaluation.similarity import clip_scores, prompt_margins

Hits = Mapping[str, Sequence[bool]]
"""Slot of the prompt → whether each picture shows the word that was asked for, prompt-major."""


FALL_CONFIDENCE = 0.9
"""Of an interval around a fall in both directions: it lies above the lower end with 95 %."""


class PromptPart(Part):
    """One part of the prompts (object, colour, place): how many of the pictures show it."""

    share: Compared
    change: Change


class PromptKeeping(Part):
    """How well pictures fit their prompts, base beside adapter."""

    prompts: int
    seeds: int
    clip_score: Compared
    """Mean cosine of picture and prompt in the judge's features, times 100."""
    clip_change: Change
    parts: dict[str, PromptPart] | None
    """``None``: what the prompts ask for is not known word by word."""


def measure_prompt_keeping(
    looks: Mapping[Side, Tensor],
    wishes: Tensor,
    *,
    seeds: int,
    truths: Tensor | None = None,
    hits: Mapping[Side, Hits] | None = None,
    true_hits: Hits | None = None,
) -> PromptKeeping:
    """Score every side on the same prompts and seeds.

    Args:
        looks: side → (prompts × seeds, D) features of its pictures, prompt-major; adapter and base at least.
        wishes: (prompts, D) features of the prompts, without the trigger, which no judge knows.
        seeds: pictures of each prompt.
        truths: (prompts × k, D) features of true pictures of the prompts, prompt-major: the ceiling.
        hits: side → its hits, from :meth:`detour.evaluation.judge.Judge.prompt_hits`.
        true_hits: of the true pictures.

    Raises:
        ShapeMismatch: not ``seeds`` pictures a prompt.
    """
    scores = {side: clip_scores(features, wishes, seeds=seeds).tolist() for side, features in looks.items()}
    ceiling = None
    if truths is not None:
        ceiling = float(clip_scores(truths, wishes, seeds=len(truths) // len(wishes)).mean())
    return PromptKeeping(
        prompts=len(wishes),
        seeds=seeds,
        clip_score=Compared.of({side: float(np.mean(row)) for side, row in scores.items()}, ceiling=ceiling),
        clip_change=change_over_prompts(scores["adapter"], scores["base"], seeds=seeds),
        parts=None if hits is None else prompt_parts(hits, seeds=seeds, true_hits=true_hits),
    )


def prompt_parts(
    hits: Mapping[Side, Hits], *, seeds: int, true_hits: Hits | None = None
) -> dict[str, PromptPart]:
    """Slot → share of hits of every side, and the change with its interval."""
    found = {}
    for slot in hits["base"]:
        rows = {side: [float(hit) for hit in mine[slot]] for side, mine in hits.items()}
        ceiling = None if true_hits is None else float(np.mean(true_hits[slot]))
        found[slot] = PromptPart(
            share=Compared.of({side: float(np.mean(row)) for side, row in rows.items()}, ceiling=ceiling),
            change=change_over_prompts(rows["adapter"], rows["base"], seeds=seeds),
        )
    return found


def falls_of(adapter: Hits, controls: Sequence[Hits], *, seeds: int = 1) -> dict[str, Difference]:
    """Part of the prompt → by how much fewer of the adapter's pictures show it than could, over the prompts.

    What could is the share of the control that shows it least: what a style itself hides is hidden from the judge in
    true pictures too, and no fault of the adapter's.

    Args:
        adapter: its hits, prompt-major.
        controls: of the base and, where there are any, of true pictures; the same prompts and as many pictures.
        seeds: pictures of each prompt.
    """
    falls = {}
    for part, found in adapter.items():
        least = min((hits[part] for hits in controls), key=sum)
        falls[part] = paired_difference(
            over_seeds(least, seeds), over_seeds(found, seeds), confidence=FALL_CONFIDENCE
        )
    return falls


@dataclass(frozen=True, kw_only=True)
class Following:
    """By how much better pictures fit their own prompts than each other's, 100 times the cosine.

    Attributes:
        adapter: mean over the prompts.
        expected: of the control where it is lowest.
        lost: by how much the adapter lies below the share of the expected that it must keep, over the prompts.
    """

    adapter: float
    expected: float
    lost: Difference


def measure_following(
    adapter: Tensor, controls: Sequence[Tensor], wishes: Tensor, *, share_min: float, seeds: int = 1
) -> Following:
    """Whether pictures still have to do with their prompts.

    Args:
        adapter: (prompts × seeds, D) features of its pictures, prompt-major.
        controls: of the base's pictures and, where there are any, of true ones.
        wishes: (prompts, D) features of the prompts, two or more, without the trigger, which no judge knows.
        share_min: of the margin of the controls, that has to be kept.
        seeds: pictures of each prompt.

    Raises:
        ShapeMismatch: a single prompt, or not ``seeds`` pictures a prompt.
    """
    margins: list[list[float]] = [prompt_margins(looks, wishes, seeds=seeds).tolist() for looks in controls]
    expected = min(margins, key=fmean)
    drawn: list[float] = prompt_margins(adapter, wishes, seeds=seeds).tolist()
    return Following(
        adapter=fmean(drawn),
        expected=fmean(expected),
        lost=paired_difference(
            [share_min * margin for margin in expected], drawn, confidence=FALL_CONFIDENCE
        ),
    )
