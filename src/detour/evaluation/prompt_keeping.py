"""Measures whether an adapter's pictures still show what their prompts ask for."""

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from detour.evaluation.change import Change, change_over_prompts
from detour.evaluation.compared import Compared, Part, Side
from detour.evaluation.similarity import clip_scores

Hits = Mapping[str, Sequence[bool]]
"""Slot of the prompt → whether each picture shows the word that was asked for, prompt-major."""


class PromptPart(Part):
    """Share of pictures that show one part of their prompt (object, colour, place)."""

    share: Compared
    change: Change


class PromptKeeping(Part):
    """Scores of how well pictures fit their prompts, base beside adapter."""

    prompts: int
    seeds: int
    clip_score: Compared
    """Mean cosine of picture and prompt in the judge's features, times 100."""
    clip_change: Change
    parts: dict[str, PromptPart] | None
    """Shares by part of the prompt; ``None`` where its words are not known."""


def measure_prompt_keeping(
    picture_features: Mapping[Side, Tensor],
    prompt_features: Tensor,
    *,
    seeds: int,
    truths: Tensor | None = None,
    hits: Mapping[Side, Hits] | None = None,
    true_hits: Hits | None = None,
) -> PromptKeeping:
    """Score every side on the same prompts and seeds.

    Args:
        picture_features: side → (prompts × seeds, D) features of its pictures, prompt-major; adapter and base at least.
        prompt_features: (prompts, D) features of the prompts, without the trigger, which no judge knows.
        seeds: pictures of each prompt.
        truths: (prompts × k, D) features of true pictures of the prompts, prompt-major: the ceiling.
        hits: side → its hits, from :meth:`detour.evaluation.judge.Judge.prompt_hits`.
        true_hits: of the true pictures.

    Raises:
        ShapeMismatch: not ``seeds`` pictures a prompt.
    """
    scores = {
        side: clip_scores(features, prompt_features, seeds=seeds).tolist()
        for side, features in picture_features.items()
    }
    ceiling = None
    if truths is not None:
        ceiling = float(
            clip_scores(truths, prompt_features, seeds=len(truths) // len(prompt_features)).mean()
        )
    return PromptKeeping(
        prompts=len(prompt_features),
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
