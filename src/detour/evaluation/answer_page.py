"""Rows of a page with what the rules found; figures that the judge cannot read are struck out, with the cause."""

from dataclasses import dataclass

from detour.evaluation.answers import Answers, Competence, FigureAnswer, ShareOfWay
from detour.evaluation.judgement import chance_in_words


@dataclass(frozen=True, kw_only=True)
class AnswerRow:
    """One line of the table of answers.

    Attributes:
        name: of the figure.
        answer: lost, kept or unknown.
        loss: with its limits.
        read: what the judge reads, or why the figure is not known.
        used: whether the figure counts; else it is struck out.
    """

    name: str
    answer: str
    loss: str
    read: str
    used: bool


def answer_rows(answers: Answers | None) -> list[AnswerRow]:
    """One row for every figure that can be lost or kept; none where nothing was judged."""
    return [] if answers is None else [_row(name, one) for name, one in answers.figures.items()]


def _row(name: str, one: FigureAnswer) -> AnswerRow:
    # A loss that was found stands; a judge that reads nothing in the base's pictures takes it away.
    used = one.on_base.shown and (one.answer != "unknown" or one.on_references.shown)
    loss = "–" if one.loss is None else f"{max(one.loss, 0.0):.0%}"
    if one.low is not None and one.high is not None:
        loss += f", at most {max(one.high, 0.0):.0%}"
    said = (_reads(one.on_base, "the base's pictures"), _reads(one.on_references, "your own pictures"))
    read = "; ".join(said)
    if one.because:
        read = f"{read}. Not known: {one.because}"
    return AnswerRow(name=name, answer=one.answer, loss=loss, read=read, used=used)


def _reads(found: Competence, where: str) -> str:
    if found.p_value is None:
        return f"could not be tested in {where} ({found.pictures})"
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
    subject = answers.subject
    return [
        ("of the way from the base's pictures to the subject's", way_text(subject.taken)),
        ("of the way beyond the same prompts without its word", way_text(subject.trigger)),
        ("of the way that pictures of the class alone went", way_text(subject.own_class)),
        ("the class", subject.preserved),
    ]


def way_text(way: ShareOfWay) -> str:
    """Share of the way as text, such as ``68% (57% to 79%); chance alone would do this in 1 of 1,000 cases``."""
    return f"{way.share:.0%} ({way.low:.0%} to {way.high:.0%}); {chance_in_words(way.p_value)}"
