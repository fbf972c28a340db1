"""Derives one verdict, the unknowns, the reasons and the next command from raw material, in pure functions.

The order of the rules is in :func:`judge`; ``docs/verdicts.md`` says what each threshold was taken from.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from detour.evaluation import limits, thresholds
from detour.evaluation.competence import Competence
from detour.evaluation.figure_reading import Reading, answers_of, read_captions, read_slot
from detour.evaluation.keeping import Keeping, compare
from detour.evaluation.next_steps import Doubts, VerdictWord, next_step
from detour.evaluation.raw_material import Material, PixelFacts
from detour.evaluation.reading import Rows
from detour.evaluation.relations import Relations, relate
from detour.evaluation.subject_likeness import Share, SubjectLikeness, measure_subject
from detour.evaluation.way import Way, measure_way

WHOLE = "prompt"
"""Name of the figure that needs no vocabulary: pictures against whole captions."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A verdict with its reasons, its answers and the next command.

    Attributes:
        verdict: in one word.
        unknown: figures of which neither a loss nor keeping can be told.
        reasons: sentences, the deciding one first.
        next_step: a command.
        figures: name → answer with its limits.
        readings: name → the scores behind it, and what the judge reads on each side.
        judge_on_base: what the judge reads in the base's pictures.
        judge_on_references: what it reads in the user's own.
        relations: of the adapter's pictures to the base's.
        way: of a style.
        subject: of a subject.
    """

    verdict: VerdictWord
    unknown: tuple[str, ...]
    reasons: tuple[str, ...]
    next_step: str
    figures: Mapping[str, Keeping]
    readings: Mapping[str, Reading]
    judge_on_base: Competence
    judge_on_references: Competence
    relations: Relations
    way: Way | None
    subject: SubjectLikeness | None


Finding = tuple[VerdictWord, str]


def judge(material: Material) -> Judgement:
    """Verdict on raw material.

    The first rule that speaks against the adapter names the verdict: no effect, copies, one picture for every prompt,
    pictures that do not follow their prompts, overfitting, a class that became the subject, prompts that were lost.
    Those that need a judge are left out where it cannot read the base's own pictures. With nothing against it, a
    gain and pictures that are shown to follow their prompts are ``learned``; anything else is ``inconclusive``.
    """
    whole = read_captions(material)
    parts = {name: read_slot(material, slot) for name, slot in material.slots.items()}
    relations = relate(
        _by_prompt(material.adapter, material.seeds), _by_prompt(material.base, material.seeds)
    )
    figures = answers_of({WHOLE: whole} | parts, material.margin)
    able = whole.on_base.shown
    way = None if material.goal == "subject" or len(material.references) < 2 else measure_way(
        material.adapter, material.base, material.references, seeds=material.seeds
    )  # fmt: skip
    subject = _subject(material)
    view = _View(material, whole, figures, relations, way, subject)
    pixels = material.pixels
    against = [*_no_effect(pixels), *_black(pixels), *_copies(pixels), *_same_picture(pixels)]
    if not any(name == "no_effect" for name, _ in against):
        against += (
            [*_not_following(view), *_overfit(pixels), *_drifted(view), *_lost(view)]
            if able
            else _overfit(pixels)
        )
    gained, said = _gain(view)
    doubts = [*_doubts(view), *_data_doubts(view)]
    name: VerdictWord = against[0][0] if against else "learned" if gained and not doubts else "inconclusive"
    unknown = (
        tuple(key for key, one in figures.items() if one.answer == "unknown") if able else tuple(figures)
    )
    return Judgement(
        verdict=name,
        unknown=unknown,
        reasons=(*(sentence for _, sentence in against), *doubts, *said, *_unknown_sentences(view, unknown)),
        next_step=next_step(name, material.run, _doubts_for_commands(view, unknown, gained=gained)),
        figures=figures,
        readings={WHOLE: whole} | parts,
        judge_on_base=whole.on_base,
        judge_on_references=whole.on_references,
        relations=relations,
        way=way,
        subject=subject,
    )


@dataclass(frozen=True)
class _View:
    """Figures that the rules read."""

    material: Material
    whole: Reading
    figures: Mapping[str, Keeping]
    relations: Relations
    way: Way | None
    subject: SubjectLikeness | None

    @property
    def count(self) -> int:
        return len(self.material.references)


def _by_prompt(rows: Rows, seeds: int) -> Rows:
    result: Rows = rows.reshape(-1, seeds, rows.shape[1]).mean(1)
    return result


def _subject(material: Material) -> SubjectLikeness | None:
    sides = material.own_class
    if sides is None or len(material.references) < 2:
        return None
    return measure_subject(
        adapter=material.adapter, base=material.base, class_adapter=sides.adapter, class_base=sides.base,
        references=material.references, seeds=material.seeds, kept_out=material.kept_out,
    )  # fmt: skip


def pixel_findings(pixels: PixelFacts) -> list[Finding]:
    """Findings against an adapter from pixels and losses alone, in the order of :func:`judge`."""
    return [
        *_no_effect(pixels),
        *_black(pixels),
        *_copies(pixels),
        *_same_picture(pixels),
        *_overfit(pixels),
    ]


def chance_in_words(p_value: float) -> str:
    """A p-value as a sentence part: ``chance alone would do this in 1 of 1,000 cases``."""
    return f"chance alone would do this in {max(1, round(1000 * p_value))} of 1,000 cases"


def _no_effect(pixels: PixelFacts) -> list[Finding]:
    enough = pixels.effect > thresholds.EFFECT_MIN_DIFF
    if enough and pixels.effect > thresholds.EFFECT_OVER_NOISE * pixels.noise_floor:
        return []
    said = f"The pictures are the base's: they change by {pixels.effect:.2f} of 255, where drawing the base twice gives"
    return [("no_effect", f"{said} {pixels.noise_floor:.2f}.")]


def _black(pixels: PixelFacts) -> list[Finding]:
    if not pixels.black:
        return []
    said = f"{pixels.black} of the pictures are black: the adapter drives the network to values that are not finite."
    return [("collapsed", said)]


def _copies(pixels: PixelFacts) -> list[Finding]:
    if pixels.copied is None or pixels.copied - pixels.copied_base <= thresholds.COPY_SHARE_MAX + 1e-9:
        return []
    return [("copies", f"{pixels.copied:.0%} of the pictures for new prompts are copies of training pictures; of the "
                       f"base's {pixels.copied_base:.0%}.")]  # fmt: skip


def _same_picture(pixels: PixelFacts) -> list[Finding]:
    if pixels.diversity is None or not pixels.diversity_expected:
        return []
    share = pixels.diversity / pixels.diversity_expected
    if share > thresholds.COLLAPSE_SHARE_MAX:
        return []
    return [("collapsed", f"Different prompts give nearly the same picture: they differ by {share:.0%} of what they "
                          "should.")]  # fmt: skip


def _not_following(view: _View) -> list[Finding]:
    """Whether the judge reads this style, and reads nothing of the prompts in the adapter's pictures."""
    whole = view.whole
    if not whole.on_references.shown or whole.on_adapter.shown:
        return []
    rest = compare(whole.adapter, limits.FOLLOWING_SHARE_MAX * whole.base,
                   limits.FOLLOWING_SHARE_MAX * whole.references, margin=view.material.margin)  # fmt: skip
    if rest.p_lost > limits.LOST_P_MAX:
        return []
    return [("collapsed", "The pictures do not follow their prompts: they fit their own no better than each other's, "
                          "and the judge reads your own pictures.")]  # fmt: skip


def _overfit(pixels: PixelFacts) -> list[Finding]:
    losses = pixels.validation
    rise = losses[-1] / min(losses) - 1 if len(losses) > 1 and min(losses) > 0 else 0.0
    if rise <= thresholds.OVERFIT_RISE_MAX:
        return []
    return [("overfit", f"The loss on pictures kept out ended {rise:.0%} above its lowest value.")]


def _drifted(view: _View) -> list[Finding]:
    subject = view.subject
    if subject is None or subject.preserved != "lost":
        return []
    return [("class_drifted", f"{_class_sentence(subject)}; {limits.CLASS_DRIFT_MAX:.0%} is accepted.")]


def _class_sentence(subject: SubjectLikeness) -> str:
    moved = subject.own_class
    return f"Pictures of the class alone went {moved.share:.0%} of the way to the subject{_between(moved)}"


def _between(found: Share | Way) -> str:
    """Limits in brackets with a blank in front; empty where there are none."""
    return "" if found.low is None or found.high is None else f" ({found.low:.0%} to {found.high:.0%})"


def _lost(view: _View) -> list[Finding]:
    found: list[Finding] = []
    for name, one in view.figures.items():
        if one.answer == "lost":
            said = f"Part of what the base draws of the {name} was lost: {one.loss:.0%} of it"
            said += f" ({max(one.low, 0):.0%} to {min(one.high, 1):.0%})"
            found.append(("forgot_prompts", f"{said}; {chance_in_words(one.p_lost)}."))
    return found


def _gain(view: _View) -> tuple[bool, list[str]]:
    if view.subject is not None:
        return _subject_gain(view.subject)
    way = view.way
    if way is None:
        return False, ["There are no pictures to compare the style with."]
    said = (
        f"The pictures went {way.share:.0%} of the way from the base's to yours{_between(way)}; "
        f"{chance_in_words(way.p_nearer)}."
    )
    if way.p_room > limits.GAIN_P_MAX:
        return False, [said, "Your pictures cannot be told from what the base draws anyway."]
    sure = way.low is not None and way.low >= limits.WAY_LOW_MIN and way.p_nearer <= limits.GAIN_P_MAX
    enough = way.share >= limits.WAY_MIN and sure
    asked = f"{limits.WAY_MIN:.0%} with a lower limit of {limits.WAY_LOW_MIN:.0%} would be called learned."
    return enough, [said] if enough else [said, asked]


def _subject_gain(subject: SubjectLikeness) -> tuple[bool, list[str]]:
    taken, trigger = subject.taken, subject.trigger
    kept_out = subject.taken_kept_out
    alone = (
        "" if kept_out is None else f" Towards the pictures that were kept out alone it is {kept_out:.0%}."
    )
    said = [
        f"Pictures with the subject's word went {taken.share:.0%} of the way from the base's to the subject's own"
        f"{_between(taken)}; {chance_in_words(taken.p_value)}.{alone}",
        _trigger_sentence(trigger),
    ]
    if subject.preserved == "kept":
        said.append(f"{_class_sentence(subject)}: the class is kept.")
    enough = taken.share >= limits.SUBJECT_WAY_MIN and taken.p_value <= limits.GAIN_P_MAX
    return enough, said if enough else [*said, f"{limits.SUBJECT_WAY_MIN:.0%} would be called learned."]


def _trigger_sentence(trigger: Share) -> str:
    said = f"The same prompts without the subject's word went {abs(trigger.share):.0%} of the way "
    said += f"{'less' if trigger.share >= 0 else 'further'}; {chance_in_words(trigger.p_value)}"
    needed = trigger.p_value <= limits.GAIN_P_MAX
    return f"{said}." if needed else f"{said}: that the word is needed is not shown."


def _doubts(view: _View) -> list[str]:
    """Doubts about prompts that keep anything from being called learned, though nothing was shown to be wrong."""
    found = []
    whole = view.whole
    if whole.on_base.p_value is None:
        found.append(f"What the judge can read could not be tested: {_too_few(view)}.")
    elif not whole.on_base.shown:
        found.append(
            "The judge does not tell the base's own pictures apart by their prompts, so nothing that it says counts: "
            "name another one."
        )
    elif _may_be_lost(view):
        lost = view.figures[WHOLE]
        found.append(
            f"Whether prompts are still followed is open (a loss of {lost.loss:.0%}, {lost.low:.0%} to "
            f"{lost.high:.0%}): ask more of them."
        )
    elif not whole.on_adapter.shown and not view.relations.shown:
        found.append(
            "Neither the judge nor a comparison with the base's pictures shows that prompts are still followed."
        )
    return found


def _too_few(view: _View) -> str:
    """Why competence could not be tested on the base's pictures."""
    pictures, least = view.whole.on_base.pictures, limits.COMPETENCE_PICTURES_MIN
    if pictures < least:
        drawn = "1 picture was" if pictures == 1 else f"{pictures} pictures were"
        return f"{drawn} drawn on each side, and the test takes {least}"
    return "all prompts are the same"


def _data_doubts(view: _View) -> list[str]:
    """Doubts about the user's own pictures and captions, which keep anything from being called learned."""
    found = []
    if view.count < limits.FIRM_REFERENCES_MIN:
        few = "One picture does" if view.count == 1 else f"{view.count} pictures do"
        found.append(f"{few} not tell a style or a subject from themselves: name more of them.")
    elif _disagree(view):
        found.append(_disagreement(view))
    return found


def _disagree(view: _View) -> bool:
    """Whether a judge that reads the base's pictures finds that the user's captions do not fit their pictures."""
    whole = view.whole
    return whole.on_base.shown and whole.on_references.p_value is not None and not whole.on_references.shown


def _may_be_lost(view: _View) -> bool:
    """Whether the prompt may be lost: the judge reads the references but not the adapter's pictures."""
    readable = view.whole.on_references.shown or not view.whole.on_adapter.shown
    return view.figures[WHOLE].answer == "unknown" and readable


def _disagreement(view: _View) -> str:
    said = "Captions and pictures agree no more than chance: wrong captions, or a judge that cannot read this style"
    if view.whole.on_adapter.shown:
        return f"{said}. It reads the adapter's pictures, so look at the captions first."
    return f"{said}. Pictures of other things in the same style, with captions that you checked, would tell them apart."


def _unknown_sentences(view: _View, unknown: tuple[str, ...]) -> list[str]:
    found = []
    if view.whole.on_references.p_value is None:
        found.append(
            f"What the judge reads in your own pictures could not be tested, which takes "
            f"{limits.COMPETENCE_PICTURES_MIN} of them with captions that differ. So a style in which the judge cannot "
            "read something would look the same as a loss, and nothing is called lost."
        )
    for name in unknown:
        one = view.figures[name]
        more = f"; {one.needed} prompts would probably settle it" if one.needed else ""
        found.append(
            f"Whether the {name} is kept cannot be told: {one.because or 'the judge reads nothing'}{more}."
        )
    if view.subject is not None and view.subject.preserved == "unknown":
        found.append(
            f"{_class_sentence(view.subject)}; whether the class is kept cannot be told with so few prompts."
        )
    return found


def _doubts_for_commands(view: _View, unknown: tuple[str, ...], *, gained: bool) -> Doubts:
    needed = max((view.figures[one].needed or 0 for one in unknown), default=0)
    prompts = max(needed, 2 * len(view.material.prompts), limits.COMPETENCE_PICTURES_MIN)
    way, able, tested = view.way, view.whole.on_base.shown, view.whole.on_base.p_value is not None
    return Doubts(
        data=bool(_data_doubts(view)) or (able and way is not None and way.p_room > limits.GAIN_P_MAX),
        judge=tested and not able,
        prompts=prompts if view.subject is None else 2 * prompts,  # half of them are the class's
        short=not gained and not _doubts(view),
    )
