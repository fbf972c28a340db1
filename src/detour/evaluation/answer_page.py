"""Rows of a page with what the rules found; figures that the judge cannot read are struck out, with the cause."""

from collections.abc import Mapping
from dataclasses import dataclass

from detour.evaluation.answers import Answers, Competence, FigureAnswer, ShareOfWay
from detour.evaluation.judgement import chance_in_words


@dataclass(frozen=True, kw_only=True)
class AnswerRow:
    """One line of the table of answers.

    Attributes:
        name: of the figure.
        answer: lost, kept or unknown.
        loss: with its upper limit, against what could be expected.
        against_base: what is missing against the base's own pictures, with the probability that it is chance.
        found: in how many pictures of the adapter, of the base and of the user the right answer scores highest.
        read: what the judge reads, or why the figure is not known.
        used: whether the figure counts; else it is struck out.
    """

    name: str
    answer: str
    loss: str
    against_base: str
    found: str
    read: str
    used: bool


def answer_rows(answers: Answers | None) -> list[AnswerRow]:
    """One row for every figure that can be lost or kept; none where nothing was judged."""
    return [] if answers is None else [_row(name, one) for name, one in answers.figures.items()]


def _row(name: str, one: FigureAnswer) -> AnswerRow:
    # A loss that was found stands; a judge that reads nothing in the base's pictures takes it away.
    used = is_read(one)
    loss = _share(one.loss)
    if one.loss is not None and one.high is not None and one.high > 0:
        loss += f", at most {one.high:.0%}"
    said = (_reads(one.on_base, "the base's pictures"), _reads(one.on_references, "your own pictures"))
    read = "; ".join(said)
    if one.because:
        read = f"{read}. Not known: {one.because}"
    return AnswerRow(
        name=name,
        answer=one.answer,
        loss=loss,
        against_base=_against_base(one),
        found=_found(one.read),
        read=read,
        used=used,
    )


def is_read(one: FigureAnswer) -> bool:
    """Whether a figure counts: the judge reads it in the base's pictures, and in the user's own or found a loss."""
    return one.on_base.shown and (one.answer != "unknown" or one.on_references.shown)


def marked(name: str, answers: Answers | None) -> str:
    """Name of a figure; one that does not count says so."""
    one = None if answers is None else answers.figures.get(name)
    return name if one is None or is_read(one) else f"{name} (not read)"


def _share(loss: float | None) -> str:
    if loss is None:
        return "–"
    return f"{loss:.0%}" if loss >= 0 else f"none ({-loss:.0%} more)"


def _against_base(one: FigureAnswer) -> str:
    if one.against_base is None or one.p_base is None:
        return "–"
    if one.against_base < 0:
        return _share(one.against_base)
    return f"{one.against_base:.0%} (p {one.p_base:.3f})"


def _found(read: Mapping[str, float] | None) -> str:
    sides = ("adapter", "base", "references")
    return "–" if read is None else " / ".join(f"{read[side]:.0%}" if side in read else "–" for side in sides)


def _reads(found: Competence, where: str) -> str:
    if found.p_value is None:
        return f"could not be tested in {where} ({found.pictures} of them)"
    if found.shown:
        return f"reads it in {where}"
    return f"reads it in {where} no better than shuffled"


def subject_rows(answers: Answers | None) -> list[tuple[str, str]]:
    """Rows in words on how far pictures went towards a style, or towards a subject, with its word and its class."""
    if answers is None:
        return []
    if answers.subject is None:
        way = answers.way
        return [] if way is None else [("of the way from the base's pictures to yours", way_text(way))]
    subject, kept_out = answers.subject, answers.subject.taken_kept_out
    alone = [] if kept_out is None else [("the same towards the pictures kept out alone", f"{kept_out:.0%}")]
    return [
        ("of the way from the base's pictures to the subject's", way_text(subject.taken)),
        *alone,
        ("of the way beyond the same prompts without its word", way_text(subject.trigger)),
        ("of the way that pictures of the class alone went", way_text(subject.own_class)),
        *(
            []
            if subject.class_without_prior is None
            else [("the same, trained without class pictures", way_text(subject.class_without_prior))]
        ),
        ("the class is", subject.preserved),
    ]


def way_text(way: ShareOfWay) -> str:
    """Share of the way as text, such as ``68% (57% to 79%); chance alone would do this in 1 of 1,000 cases``."""
    return f"{way.share:.0%}{between(way)}; {chance_in_words(way.p_value)}"


def between(way: ShareOfWay) -> str:
    """Limits in brackets with a blank in front; empty where there are none."""
    return "" if way.low is None or way.high is None else f" ({way.low:.0%} to {way.high:.0%})"
