"""What the rules found, as parts of ``proof.json`` and ``evaluation.json``: answers beside what the judge can read."""

import math
from typing import Literal

from detour.evaluation import competence, judgement, keeping, subject_likeness
from detour.evaluation import way as ways
from detour.evaluation.compared import Part
from detour.evaluation.figure_reading import Reading


class Competence(Part):
    """How much better the judge scores true captions or words than shuffled ones, on some pictures."""

    pictures: int
    margin: float
    """Mean log-odds of the true captions or words."""
    chance: float
    """The same of shuffled ones."""
    p_value: float | None
    """Share of shuffles that score as well as the truth; ``None``: it could not be tested."""
    shown: bool
    """Whether the judge tells true from shuffled."""

    @classmethod
    def of(cls, found: competence.Competence) -> "Competence":
        """As a part of a file."""
        return cls(
            pictures=found.pictures,
            margin=found.margin,
            chance=found.chance,
            p_value=found.p_value,
            shown=found.shown,
        )


class FigureAnswer(Part):
    """Whether one figure (the whole prompt, or its objects, colours, places) is lost, kept or unknown."""

    answer: Literal["lost", "kept", "unknown"]
    loss: float | None
    """Share of the expected score that the adapter lacks; below zero where it has more."""
    low: float | None
    """Lower limit of it, 95 % on that side; ``None``: no limit."""
    high: float | None
    """Upper limit of it, 95 % on that side; ``None``: no limit."""
    p_lost: float
    """Chance alone would show such a loss in so many cases."""
    prompts: int
    needed: int | None
    """Prompts that would probably settle an unknown; ``None`` where it is settled or none would."""
    because: str
    """Why it is unknown; empty otherwise."""
    on_base: Competence
    """What the judge reads of it in the base's pictures."""
    on_references: Competence
    """What the judge reads of it in the user's own pictures, by their captions."""

    @classmethod
    def of(cls, found: keeping.Keeping, reading: Reading) -> "FigureAnswer":
        """As a part of a file."""
        return cls(
            answer=found.answer,
            loss=_finite(found.loss),
            low=_finite(found.low),
            high=_finite(found.high),
            p_lost=found.p_lost,
            prompts=found.prompts,
            needed=found.needed,
            because=found.because,
            on_base=Competence.of(reading.on_base),
            on_references=Competence.of(reading.on_references),
        )


class ShareOfWay(Part):
    """How far of the way pictures went from the base's (0) to the user's own (1), with limits at 95 % on each side."""

    share: float
    low: float
    high: float
    p_value: float
    """Chance alone would show as much in so many cases."""

    @classmethod
    def of(cls, found: subject_likeness.Share) -> "ShareOfWay":
        """As a part of a file."""
        return cls(share=found.share, low=found.low, high=found.high, p_value=found.p_value)


class SubjectFigures(Part):
    """A subject judged as a subject."""

    taken: ShareOfWay
    """Pictures of prompts with the subject's word."""
    trigger: ShareOfWay
    """By how much of the way those lie beyond pictures of the same prompts without the word."""
    own_class: ShareOfWay
    """Pictures of the class alone."""
    preserved: Literal["lost", "kept", "unknown"]
    """Whether the class is kept."""
    references: int
    prompts: int

    @classmethod
    def of(cls, found: subject_likeness.SubjectLikeness) -> "SubjectFigures":
        """As a part of a file."""
        return cls(
            taken=ShareOfWay.of(found.taken),
            trigger=ShareOfWay.of(found.trigger),
            own_class=ShareOfWay.of(found.own_class),
            preserved=found.preserved,
            references=found.references,
            prompts=found.prompts,
        )


class Answers(Part):
    """What the judge's features say of an adapter."""

    figures: dict[str, FigureAnswer]
    """Name of a figure → its answer."""
    way: ShareOfWay | None
    """Of a style; ``None`` for a subject, or without pictures to compare with."""
    subject: SubjectFigures | None
    """Of a subject; ``None`` for a style."""

    @classmethod
    def of(cls, found: judgement.Judgement) -> "Answers":
        """As a part of a file."""
        way = found.way
        return cls(
            figures={name: FigureAnswer.of(one, found.readings[name]) for name, one in found.figures.items()},
            way=None if way is None else _of_way(way),
            subject=None if found.subject is None else SubjectFigures.of(found.subject),
        )


def _of_way(way: ways.Way) -> ShareOfWay:
    return ShareOfWay(share=way.share, low=way.low, high=way.high, p_value=way.p_nearer)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
