"""Answers of the rules as parts of ``proof.json`` and ``evaluation.json``, beside what the judge can read."""

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
    """Mean log-odds of the shuffled captions or words."""
    p_value: float | None
    """Share of shuffles that score as well as the true order; ``None`` where it could not be tested."""
    shown: bool
    """Whether the judge distinguishes true captions or words from shuffled ones."""

    @classmethod
    def of(cls, found: competence.Competence) -> "Competence":
        """Make the part of the file from the measured competence."""
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
    """Share of the expected score that is missing with the adapter; negative where the score is higher."""
    low: float | None
    """Lower one-sided 95 % limit of the loss; ``None`` where there is no limit."""
    high: float | None
    """Upper one-sided 95 % limit of the loss; ``None`` where there is no limit."""
    p_lost: float
    """Probability that chance alone shows a loss as large as this one."""
    against_base: float | None = None
    """Share of the base's own score that is missing with the adapter, whatever the style hides; negative where the
    score is higher; ``None`` in files of older versions."""
    p_base: float | None = None
    """Probability that chance alone shows as much less than the base."""
    read: dict[str, float] | None = None
    """Side (``adapter``, ``base``, ``references``) → share of its pictures in which the right answer scores highest,
    after the style's common offset was removed."""
    prompts: int
    needed: int | None
    """Number of prompts that would probably settle an unknown; ``None`` where it is settled or none would."""
    because: str
    """Cause of an unknown; empty where the figure is settled."""
    on_base: Competence
    """Competence of the judge on the base's pictures, for this figure."""
    on_references: Competence
    """Competence of the judge on the user's own pictures and their captions, for this figure."""

    @classmethod
    def of(cls, found: keeping.Keeping, reading: Reading) -> "FigureAnswer":
        """Make the part of the file from the answer of the rules."""
        return cls(
            answer=found.answer,
            loss=_finite(found.loss),
            low=_finite(found.low),
            high=_finite(found.high),
            p_lost=found.p_lost,
            against_base=found.against_base,
            p_base=found.p_base,
            read=dict(reading.right),
            prompts=found.prompts,
            needed=found.needed,
            because=found.because,
            on_base=Competence.of(reading.on_base),
            on_references=Competence.of(reading.on_references),
        )


class ShareOfWay(Part):
    """How far of the way pictures went from the base's (0) to the user's own (1), with limits at 95 % on each side."""

    share: float
    low: float | None
    """``None`` where there are too few pictures, or too short a way, for limits to mean anything."""
    high: float | None
    p_value: float
    """Probability that chance alone shows a share as large as this one."""

    @classmethod
    def of(cls, found: subject_likeness.Share) -> "ShareOfWay":
        """Make the part of the file from the measured share."""
        return cls(share=found.share, low=found.low, high=found.high, p_value=found.p_value)


class SubjectFigures(Part):
    """Figures of an adapter that was trained on a subject."""

    taken: ShareOfWay
    """Share of the way that pictures of prompts with the subject's word went."""
    taken_kept_out: float | None = None
    """The same towards the pictures that were kept out of training alone; ``None`` without any."""
    trigger: ShareOfWay
    """Share of the way by which pictures with the subject's word lie beyond those without it."""
    own_class: ShareOfWay
    """Share of the way that pictures of the class alone went."""
    preserved: Literal["lost", "kept", "unknown"]
    """Whether the class is preserved."""
    class_without_prior: ShareOfWay | None = None
    """Share of the way that pictures of the class alone went where the same run was trained without class pictures;
    ``None`` where no such control was trained."""
    references: int
    prompts: int

    @classmethod
    def of(
        cls,
        found: subject_likeness.SubjectLikeness,
        without_prior: subject_likeness.SubjectLikeness | None = None,
    ) -> "SubjectFigures":
        """Make the part of the file from the measured likeness, and from that of a control."""
        return cls(
            taken=ShareOfWay.of(found.taken),
            taken_kept_out=found.taken_kept_out,
            trigger=ShareOfWay.of(found.trigger),
            own_class=ShareOfWay.of(found.own_class),
            preserved=found.preserved,
            class_without_prior=None if without_prior is None else ShareOfWay.of(without_prior.own_class),
            references=found.references,
            prompts=found.prompts,
        )


class Answers(Part):
    """What the judge's features say about an adapter."""

    figures: dict[str, FigureAnswer]
    """Name of a figure → its answer."""
    way: ShareOfWay | None
    """Share of the way to a style; ``None`` for a subject, or without pictures to compare with."""
    subject: SubjectFigures | None
    """Figures of a subject; ``None`` for a style."""

    @classmethod
    def of(
        cls, found: judgement.Judgement, *, without_prior: subject_likeness.SubjectLikeness | None = None
    ) -> "Answers":
        """Make the part of the file from a judgement, and from a subject's control without class pictures."""
        way = found.way
        return cls(
            figures={name: FigureAnswer.of(one, found.readings[name]) for name, one in found.figures.items()},
            way=None if way is None else _of_way(way),
            subject=None if found.subject is None else SubjectFigures.of(found.subject, without_prior),
        )


def _of_way(way: ways.Way) -> ShareOfWay:
    return ShareOfWay(share=way.share, low=way.low, high=way.high, p_value=way.p_nearer)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
