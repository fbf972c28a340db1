"""Scores of one figure on every side: of whole captions, or of one slot of the prompts with known words."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from detour.evaluation import limits
from detour.evaluation.competence import Competence, competence_of_captions, competence_of_words
from detour.evaluation.keeping import Keeping, compare, settle
from detour.evaluation.raw_material import Material, Slot
from detour.evaluation.reading import (
    Indices,
    Rows,
    advantages,
    caption_margins,
    centred,
    in_sets_of,
    over_seeds,
    word_margins,
)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Scores of one figure on every side, and the judge's competence there.

    Attributes:
        adapter: (P,) of the adapter's pictures, seeds averaged within prompts.
        base: (P,) of the base's.
        references: (M,) of the user's own.
        right: side → share of its pictures for which the right caption or word scores highest.
        by_word: whether the words that can stand in a slot are known; else whole captions compete.
        on_adapter: what the judge can read in the adapter's pictures.
        on_base: in the base's.
        on_references: in the user's own.
    """

    adapter: Rows
    base: Rows
    references: Rows
    right: Mapping[str, float]
    by_word: bool
    on_adapter: Competence
    on_base: Competence
    on_references: Competence


def read_captions(material: Material) -> Reading:
    """Scores of whole captions on every side, in sets of equal size, and the judge's competence on all pictures."""
    texts = np.repeat(material.prompts, material.seeds, axis=0)
    captions = np.zeros_like(material.references) if material.captions is None else material.captions
    sides = {
        "adapter": (material.adapter, texts),
        "base": (material.base, texts),
        "references": (material.references, captions),
    }

    def margins(side: str, rows: Indices) -> Rows:
        pictures, said = sides[side]
        return caption_margins(centred(pictures[rows]), centred(said[rows]), scale=material.scale)

    scores, able = _both(
        sides, material, lambda side, rows: _scores(margins(side, rows), np.arange(len(rows))),
        lambda side, rows: competence_of_captions(margins(side, rows)),
    )  # fmt: skip
    return _read_of(scores, able, material.seeds, by_word=False)


def read_slot(material: Material, slot: Slot) -> Reading:
    phrases: Rows = np.repeat(slot.phrases, material.seeds, axis=0)
    right: Indices = np.repeat(slot.right, material.seeds, axis=0)
    sides = {"adapter": (material.adapter, phrases, right), "base": (material.base, phrases, right)}
    if slot.reference_phrases is not None and slot.reference_right is not None:
        sides["references"] = (material.references, slot.reference_phrases, slot.reference_right)

    def margins(side: str, rows: Indices) -> Rows:
        pictures, said, _ = sides[side]
        return word_margins(centred(pictures[rows]), said[rows], scale=material.scale)

    scores, able = _both(
        sides, material, lambda side, rows: _scores(margins(side, rows), sides[side][2][rows]),
        lambda side, rows: competence_of_words(margins(side, rows), sides[side][2][rows]),
    )  # fmt: skip
    return _read_of(scores, able, material.seeds, by_word=True)


def _scores(margins: Rows, own: Indices) -> Rows:
    """(N, 2): how much better the right answer of each picture fits, and 1 where it fits best of all."""
    best = margins[np.arange(len(margins)), own] >= margins.max(1) - 1e-9
    return np.stack([advantages(margins, own), best.astype(float)], axis=1)


def _both(
    sides: Mapping[str, Any],
    material: Material,
    score: Callable[[str, Indices], Rows],
    able: Callable[[str, Indices], Competence],
) -> tuple[dict[str, Rows], dict[str, Competence]]:
    """Side → scores in sets of one size, and side → the judge's competence."""
    pictures, total = len(material.adapter), len(material.references)
    size = min(pictures, total) if total >= limits.COMPETENCE_PICTURES_MIN else pictures
    counts = {side: total if side == "references" else pictures for side in sides}
    scores = {
        side: in_sets_of(size, counts[side], lambda rows, side=side: score(side, rows))  # type: ignore[misc]
        for side in sides
    }
    return scores, {side: able(side, np.arange(counts[side])) for side in sides}


def _read_of(
    scores: Mapping[str, Rows], able: Mapping[str, Competence], seeds: int, *, by_word: bool
) -> Reading:
    return Reading(
        adapter=over_seeds(scores["adapter"][:, 0], seeds),
        base=over_seeds(scores["base"][:, 0], seeds),
        references=scores["references"][:, 0] if "references" in scores else np.zeros(0),
        right={side: float(rows[:, 1].mean()) for side, rows in scores.items()},
        by_word=by_word,
        on_adapter=able["adapter"],
        on_base=able["base"],
        on_references=able.get("references", _UNREAD),
    )


_UNREAD = Competence(pictures=0, margin=0.0, chance=0.0, p_value=None)


def answers_of(read: Mapping[str, Reading], margin: float) -> dict[str, Keeping]:
    """Answers of all figures, which share one error rate; what the judge cannot read is unknown."""
    alone = {
        name: compare(
            one.adapter, one.base, one.references if one.on_references.shown else None, margin=margin
        )
        for name, one in read.items()
    }
    settled = settle(alone)
    for name, one in read.items():
        if not one.on_base.shown:
            settled[name] = _unknown(settled[name], one.on_base.sentence("it", "the base's own pictures"))
        elif settled[name].answer == "kept" and settled[name].p_base <= limits.LOST_P_MAX and _read_less(one):
            settled[name] = replace(_unknown(settled[name], _less_often(one)), needed=None)
        elif settled[name].answer == "unknown" and not one.on_references.shown:
            said = one.on_references.sentence("it", "your own pictures")
            settled[name] = _unknown(settled[name], said)
    return settled


def _read_less(one: Reading) -> bool:
    """Whether the right word wins less often in the adapter's pictures than in the base's and in the user's own."""
    expected = min(one.right["base"], one.right.get("references", 0.0))
    return one.by_word and one.on_references.shown and one.right["adapter"] < expected - limits.READ_LESS


def _less_often(one: Reading) -> str:
    shares = (f"{one.right[side]:.0%}" for side in ("adapter", "base", "references"))
    return (
        "the judge finds it in {} of the adapter's pictures, in {} of the base's and in {} of your own, while its mean "
        "score allows no such loss"
    ).format(*shares)


def _unknown(one: Keeping, because: str) -> Keeping:
    return replace(one, answer="unknown", because=because)
