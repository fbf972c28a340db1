"""From raw material to one verdict, what stays unknown, the reasons, and the next command: pure functions.

The order of the rules is that of the list in :func:`judge`; ``docs/verdicts.md`` says what each threshold was taken from.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from detour.evaluation import limits
from detour.evaluation.competence import Competence, competence_of_captions, competence_of_words
from detour.evaluation.keeping import Keeping, compare, settle
from detour.evaluation.reading import (
    Rows,
    advantages,
    caption_margins,
    centred,
    in_sets_of,
    over_seeds,
    word_margins,
)
from detour.evaluation.relations import Relations, relate
from detour.evaluation.subject_likeness import SubjectLikeness, measure_subject
from detour.evaluation.way import Way, measure_way

Name = Literal[
    "learned",
    "no_effect",
    "forgot_prompts",
    "overfit",
    "copies",
    "collapsed",
    "class_drifted",
    "inconclusive",
]
WHOLE = "prompt"
"""The figure that needs no vocabulary: pictures against whole captions."""


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One part of prompts whose possible words are known.

    Attributes:
        phrases: (P, K, D) features of each prompt with each of the K words in the slot.
        right: int (P,), the word that was asked for.
        reference_phrases: (M, K, D) of the references' captions; ``None`` where their words are not known.
        reference_right: int (M,).
    """

    phrases: Rows
    right: Rows
    reference_phrases: Rows | None = None
    reference_right: Rows | None = None


@dataclass(frozen=True, kw_only=True)
class ClassSides:
    """(P, D) features of the subject's prompts without its word, from the same seeds, on both sides."""

    adapter: Rows
    base: Rows


@dataclass(frozen=True, kw_only=True)
class PixelFacts:
    """What pixels and losses say, as today's figures measure it.

    Attributes:
        effect: mean absolute difference of the adapter's pictures to the base's, steps of 255.
        noise_floor: the same of the base to itself.
        diversity: how much pictures of different prompts differ.
        diversity_expected: how much they should: the base's or the references', whichever is lower.
        copied: share of copies of training pictures among the adapter's pictures; ``None``: not looked for.
        copied_base: the same of the base's.
        validation: loss on pictures kept out, from the first to the last.
    """

    effect: float
    noise_floor: float = 0.0
    diversity: float | None = None
    diversity_expected: float | None = None
    copied: float | None = None
    copied_base: float = 0.0
    validation: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Material:
    """Everything that a verdict looks at; features are of length one and prompt-major.

    Attributes:
        goal: what was to be learned.
        scale: of the judge's logits.
        prompts: (P, D) features of the prompts without the trigger.
        base: (P × seeds, D) features of the base's pictures.
        adapter: (P × seeds, D) of the adapter's, same prompts and seeds.
        seeds: pictures of each prompt.
        references: (M, D) of the user's own pictures, trained on and kept out.
        captions: (M, D) of their captions without the trigger; ``None``: they have none.
        slots: name → part of the prompts, where the base has a vocabulary.
        own_class: of a subject.
        pixels: figures that need no judge.
        margin: share whose loss has to be ruled out.
    """

    goal: Literal["style", "subject"] = "style"
    scale: float
    prompts: Rows
    base: Rows
    adapter: Rows
    seeds: int = 1
    references: Rows
    captions: Rows | None = None
    slots: Mapping[str, Slot] = field(default_factory=dict)
    own_class: ClassSides | None = None
    pixels: PixelFacts
    margin: float = limits.QUICK_MARGIN


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One verdict and what it stands on.

    Attributes:
        verdict: in one word.
        unknown: figures of which neither a loss nor keeping can be told.
        reasons: sentences, the deciding one first.
        next_step: a command.
        figures: name → answer with its limits.
        judge_on_base: what the judge reads in the base's pictures.
        judge_on_references: what it reads in the user's own.
        relations: of the adapter's pictures to the base's.
        way: of a style.
        subject: of a subject.
    """

    verdict: Name
    unknown: tuple[str, ...]
    reasons: tuple[str, ...]
    next_step: str
    figures: Mapping[str, Keeping]
    judge_on_base: Competence
    judge_on_references: Competence
    relations: Relations
    way: Way | None
    subject: SubjectLikeness | None


@dataclass(frozen=True, kw_only=True)
class _Read:
    """One figure's scores on every side, and what the judge reads there."""

    adapter: Rows
    base: Rows
    references: Rows
    on_adapter: Competence
    on_base: Competence
    on_references: Competence


Finding = tuple[Name, str]


def judge(material: Material) -> Judgement:
    """The verdict on raw material.

    The first rule that speaks against the adapter names the verdict: no effect, copies, one picture for every prompt,
    pictures that do not follow their prompts, overfitting, a class that became the subject, prompts that were lost. Those
    that need a judge are left out where it cannot read the base's own pictures. With nothing against it, ``learned``
    needs a gain and pictures that are shown to follow their prompts; otherwise the verdict is ``inconclusive``.
    """
    whole = _read_captions(material)
    parts = {name: _read_slot(material, slot) for name, slot in material.slots.items()}
    relations = relate(
        _by_prompt(material.adapter, material.seeds), _by_prompt(material.base, material.seeds)
    )
    figures = _figures({WHOLE: whole} | parts, material.margin)
    able = whole.on_base.shown
    way = None if material.goal == "subject" or len(material.references) < 2 else measure_way(
        material.adapter, material.base, material.references
    )  # fmt: skip
    subject = _subject(material)
    view = _View(material, whole, figures, relations, way, subject)
    against = [*_no_effect(view), *_copies(view), *_same_picture(view)]
    if not any(name == "no_effect" for name, _ in against):
        against += (
            [*_not_following(view), *_overfit(view), *_drifted(view), *_lost(view)]
            if able
            else _overfit(view)
        )
    gained, said = _gain(view)
    doubts = _doubts(view)
    name: Name = against[0][0] if against else "learned" if gained and not doubts else "inconclusive"
    unknown = (
        tuple(key for key, one in figures.items() if one.answer == "unknown") if able else tuple(figures)
    )
    return Judgement(
        verdict=name,
        unknown=unknown,
        reasons=(*(sentence for _, sentence in against), *doubts, *said, *_unknown_sentences(view, unknown)),
        next_step=_next_step(name, view, unknown),
        figures=figures,
        judge_on_base=whole.on_base,
        judge_on_references=whole.on_references,
        relations=relations,
        way=way,
        subject=subject,
    )


@dataclass(frozen=True)
class _View:
    """What the rules look at."""

    material: Material
    whole: _Read
    figures: Mapping[str, Keeping]
    relations: Relations
    way: Way | None
    subject: SubjectLikeness | None

    @property
    def count(self) -> int:
        return len(self.material.references)


def _read_captions(material: Material) -> _Read:
    """Every side's scores by whole captions, in sets of one size, and what the judge reads on each side in full."""
    texts = np.repeat(material.prompts, material.seeds, axis=0)
    captions = np.zeros_like(material.references) if material.captions is None else material.captions
    sides = {
        "adapter": (material.adapter, texts),
        "base": (material.base, texts),
        "references": (material.references, captions),
    }

    def margins(side: str, rows: Rows) -> Rows:
        pictures, said = sides[side]
        return caption_margins(centred(pictures[rows]), centred(said[rows]), scale=material.scale)

    scores, able = _both(
        sides, material, lambda side, rows: advantages(margins(side, rows), np.arange(len(rows))),
        lambda side, rows: competence_of_captions(margins(side, rows)),
    )  # fmt: skip
    return _read_of(scores, able, material.seeds)


def _read_slot(material: Material, slot: Slot) -> _Read:
    phrases, right = (np.repeat(rows, material.seeds, axis=0) for rows in (slot.phrases, slot.right))
    sides = {"adapter": (material.adapter, phrases, right), "base": (material.base, phrases, right)}
    if slot.reference_phrases is not None and slot.reference_right is not None:
        sides["references"] = (material.references, slot.reference_phrases, slot.reference_right)

    def margins(side: str, rows: Rows) -> Rows:
        pictures, said, _ = sides[side]
        return word_margins(centred(pictures[rows]), said[rows], scale=material.scale)

    scores, able = _both(
        sides, material, lambda side, rows: advantages(margins(side, rows), sides[side][2][rows]),
        lambda side, rows: competence_of_words(margins(side, rows), sides[side][2][rows]),
    )  # fmt: skip
    return _read_of(scores, able, material.seeds)


def _both(
    sides: Mapping[str, Any],
    material: Material,
    score: Callable[[str, Rows], Rows],
    able: Callable[[str, Rows], Competence],
) -> tuple[dict[str, Rows], dict[str, Competence]]:
    """Side → scores in sets of one size, and side → what the judge reads there."""
    pictures, total = len(material.adapter), len(material.references)
    size = min(pictures, total) if total >= limits.COMPETENCE_PICTURES_MIN else pictures
    counts = {side: total if side == "references" else pictures for side in sides}
    scores = {
        side: in_sets_of(size, counts[side], lambda rows, side=side: score(side, rows))  # type: ignore[misc]
        for side in sides
    }
    return scores, {side: able(side, np.arange(counts[side])) for side in sides}


def _read_of(scores: Mapping[str, Rows], able: Mapping[str, Competence], seeds: int) -> _Read:
    return _Read(
        adapter=over_seeds(scores["adapter"], seeds),
        base=over_seeds(scores["base"], seeds),
        references=scores.get("references", np.zeros(0)),
        on_adapter=able["adapter"],
        on_base=able["base"],
        on_references=able.get("references", _UNREAD),
    )


_UNREAD = Competence(pictures=0, margin=0.0, chance=0.0, p_value=None)


def _figures(read: Mapping[str, _Read], margin: float) -> dict[str, Keeping]:
    """The answers; where parts are known the whole prompt condemns nothing that they do not."""
    alone = {
        name: compare(
            one.adapter, one.base, one.references if one.on_references.shown else None, margin=margin
        )
        for name, one in read.items()
    }
    settled = settle(alone)
    for name, one in read.items():
        if not one.on_base.shown:
            settled[name] = _undone(settled[name], "the judge does not read it in the base's own pictures")
        elif settled[name].answer == "unknown" and not one.on_references.shown:
            said = one.on_references.sentence("it", "your own pictures")
            settled[name] = _undone(settled[name], said)
    return settled


def _undone(one: Keeping, because: str) -> Keeping:
    return replace(one, answer="unknown", because=because)


def _by_prompt(rows: Rows, seeds: int) -> Rows:
    result: Rows = rows.reshape(-1, seeds, rows.shape[1]).mean(1)
    return result


def _subject(material: Material) -> SubjectLikeness | None:
    sides = material.own_class
    if sides is None or len(material.references) < 2:
        return None
    return measure_subject(
        adapter=material.adapter, base=material.base, class_adapter=sides.adapter, class_base=sides.base,
        references=material.references,
    )  # fmt: skip


def chance_in_words(p_value: float) -> str:
    """A p-value as a sentence part: ``chance alone would do this in 1 of 1,000 cases``."""
    return f"chance alone would do this in {max(1, round(1000 * p_value))} of 1,000 cases"


def _no_effect(view: _View) -> list[Finding]:
    pixels = view.material.pixels
    enough = pixels.effect > limits.EFFECT_MIN_DIFF
    if enough and pixels.effect > limits.EFFECT_OVER_NOISE * pixels.noise_floor:
        return []
    said = f"The pictures are the base's: they change by {pixels.effect:.2f} of 255, where drawing the base twice gives"
    return [("no_effect", f"{said} {pixels.noise_floor:.2f}.")]


def _copies(view: _View) -> list[Finding]:
    pixels = view.material.pixels
    if pixels.copied is None or pixels.copied - pixels.copied_base <= limits.COPY_SHARE_MAX + 1e-9:
        return []
    return [("copies", f"{pixels.copied:.0%} of the pictures for new prompts are copies of training pictures; of the "
                       f"base's {pixels.copied_base:.0%}.")]  # fmt: skip


def _same_picture(view: _View) -> list[Finding]:
    pixels = view.material.pixels
    if pixels.diversity is None or not pixels.diversity_expected:
        return []
    share = pixels.diversity / pixels.diversity_expected
    if share > limits.COLLAPSE_SHARE_MAX:
        return []
    return [("collapsed", f"Different prompts give nearly the same picture: they differ by {share:.0%} of what they "
                          "should.")]  # fmt: skip


def _not_following(view: _View) -> list[Finding]:
    """Pictures that the judge could read in this style, and in which it reads nothing of their prompts."""
    whole = view.whole
    if not whole.on_references.shown or whole.on_adapter.shown:
        return []
    rest = compare(whole.adapter, limits.FOLLOWING_SHARE_MAX * whole.base,
                   limits.FOLLOWING_SHARE_MAX * whole.references, margin=view.material.margin)  # fmt: skip
    if rest.p_lost > limits.LOST_P_MAX:
        return []
    return [("collapsed", "The pictures do not follow their prompts: they fit their own no better than each other's, "
                          "and the judge reads your own pictures.")]  # fmt: skip


def _overfit(view: _View) -> list[Finding]:
    losses = view.material.pixels.validation
    rise = losses[-1] / min(losses) - 1 if len(losses) > 1 and min(losses) > 0 else 0.0
    if rise <= limits.OVERFIT_RISE_MAX:
        return []
    return [("overfit", f"The loss on pictures kept out ended {rise:.0%} above its lowest value.")]


def _drifted(view: _View) -> list[Finding]:
    subject = view.subject
    if subject is None or subject.preserved != "lost":
        return []
    moved = subject.own_class
    return [("class_drifted", f"Pictures of the class alone went {moved.share:.0%} of the way to the subject "
                              f"({moved.low:.0%} to {moved.high:.0%}); {limits.CLASS_DRIFT_MAX:.0%} is accepted.")]  # fmt: skip


def _lost(view: _View) -> list[Finding]:
    found: list[Finding] = []
    for name, one in view.figures.items():
        if one.answer == "lost":
            said = f"What the base draws of the {name} was lost: {one.loss:.0%} of it ({one.low:.0%} to {one.high:.0%})"
            found.append(("forgot_prompts", f"{said}; {chance_in_words(one.p_lost)}."))
    return found


def _gain(view: _View) -> tuple[bool, list[str]]:
    if view.subject is not None:
        return _subject_gain(view.subject)
    way = view.way
    if way is None:
        return False, ["There are no pictures to compare the style with."]
    said = (
        f"The pictures went {way.share:.0%} of the way from the base's to yours ({way.low:.0%} to {way.high:.0%}); "
        f"{chance_in_words(way.p_nearer)}."
    )
    if way.p_room > limits.GAIN_P_MAX:
        return False, [said, "Your pictures cannot be told from what the base draws anyway."]
    sure = way.low >= limits.STYLE_WAY_LOW_MIN and way.p_nearer <= limits.GAIN_P_MAX
    enough = way.share >= limits.STYLE_WAY_MIN and sure
    return enough, [said] if enough else [said, f"{limits.STYLE_WAY_MIN:.0%} would be called learned."]


def _subject_gain(subject: SubjectLikeness) -> tuple[bool, list[str]]:
    taken, trigger = subject.taken, subject.trigger
    said = [
        f"Pictures with the subject's word went {taken.share:.0%} of the way from the base's to the subject's own "
        f"({taken.low:.0%} to {taken.high:.0%}); {chance_in_words(taken.p_value)}.",
        f"Without the word they stay {trigger.share:.0%} of the way behind; {chance_in_words(trigger.p_value)}.",
    ]
    enough = taken.share >= limits.SUBJECT_WAY_MIN and taken.p_value <= limits.GAIN_P_MAX
    return enough, said if enough else [*said, f"{limits.SUBJECT_WAY_MIN:.0%} would be called learned."]


def _doubts(view: _View) -> list[str]:
    """What stands against calling anything learned, though nothing was shown to be wrong."""
    found = []
    whole = view.whole
    if not whole.on_base.shown:
        found.append(
            "The judge does not tell the base's own pictures apart by their prompts, so nothing that it says counts: "
            "name another one."
        )
    elif _may_be_lost(view):
        lost = view.figures[WHOLE]
        found.append(
            f"The prompts may be followed less ({lost.loss:.0%} of what could be): ask more of them."
        )
    elif not whole.on_adapter.shown and not view.relations.shown:
        found.append(
            "Neither the judge nor a comparison with the base's pictures shows that pictures still follow their prompts."
        )
    if view.count < limits.FIRM_REFERENCES_MIN:
        found.append(
            f"{view.count} pictures do not tell a style or a subject from themselves: name more of them."
        )
    elif whole.on_references.p_value is not None and not whole.on_references.shown:
        found.append(_disagreement(view))
    return found


def _may_be_lost(view: _View) -> bool:
    """Whether the whole prompt fell by more than the margin and the test is not sure of it."""
    one = view.figures[WHOLE]
    readable = view.whole.on_references.shown or not view.whole.on_adapter.shown
    return one.answer == "unknown" and readable and one.loss > view.material.margin


def _disagreement(view: _View) -> str:
    said = "Captions and pictures agree no more than chance would: wrong captions, or a judge that cannot read this style"
    if view.whole.on_adapter.shown and view.whole.on_base.shown:
        return f"{said}. It reads the adapter's pictures, so look at the captions first."
    return f"{said}. Pictures of other things in the same style, with captions that you checked, would tell them apart."


def _unknown_sentences(view: _View, unknown: tuple[str, ...]) -> list[str]:
    found = []
    for name in unknown:
        one = view.figures[name]
        more = f"; {one.needed} prompts would probably settle it" if one.needed else ""
        found.append(
            f"Whether the {name} is kept cannot be told: {one.because or 'the judge reads nothing'}{more}."
        )
    if view.subject is not None and view.subject.preserved == "unknown":
        found.append("Whether the class is kept cannot be told with so few prompts.")
    return found


_NEXT: Mapping[Name, str] = {
    "learned": "detour generate --adapter RUN",
    "no_effect": "detour train PICTURES --lr 2 × the rate of this run",
    "copies": "detour train PICTURES --steps half of this run's",
    "collapsed": "detour train PICTURES --lr a third of this run's",
    "overfit": "detour train PICTURES --set validate.ship=lowest_loss",
    "class_drifted": "detour train PICTURES --goal subject --class-prompt CLASS --prior",
    "forgot_prompts": "detour train PICTURES --steps half of this run's",
}


def _next_step(name: Name, view: _View, unknown: tuple[str, ...]) -> str:
    if name != "inconclusive":
        return _NEXT[name]
    disagree = view.whole.on_references.p_value is not None and not view.whole.on_references.shown
    if view.count < limits.FIRM_REFERENCES_MIN or disagree:
        return "detour data check PICTURES"
    if not view.whole.on_base.shown:
        return "detour evaluate RUN --judge ANOTHER"
    needed = max((view.figures[one].needed or 0 for one in unknown), default=0)
    return f"detour evaluate RUN --num-prompts {max(needed, 2 * len(view.material.prompts))}"
