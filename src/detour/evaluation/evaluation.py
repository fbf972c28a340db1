"""Models of ``evaluation.json``, schema version 2; a file with anything else in it is refused."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from detour.evaluation.answers import Answers
from detour.evaluation.checkpoints import CheckpointFigures
from detour.evaluation.compared import Compared, ControlName, Part, Side
from detour.evaluation.copies import CopyFigures
from detour.evaluation.diversity import Diversity
from detour.evaluation.documents import Document, write_document
from detour.evaluation.drift import Drift
from detour.evaluation.fidelity import Fidelity
from detour.evaluation.marks import MarkFigures
from detour.evaluation.prompt_keeping import PromptKeeping
from detour.evaluation.prompts import HeldOutPrompt
from detour.evaluation.proof import Count, PixelFigures, VerdictName

EVALUATION = "evaluation.json"

PromptSet = Literal["held_out", "unrelated", "unrelated_with_trigger", "recited", "own_class"]
"""Sets of prompts: new ones, unrelated ones without and with the trigger, training captions, the subject's class."""


class Judged(Part):
    """The adapter and base that were judged, and the judge."""

    adapter: str
    """Name of the adapter file, without its folder."""
    sha256: str
    """SHA-256 of the adapter's tensors."""
    weight: float
    base: str
    """Identity of the base, without a path."""
    judge: str | None
    """Name of the judge; ``None`` where none scored the pictures."""


class DriftFigures(Part):
    """What the adapter changes in pictures of unrelated prompts."""

    without_trigger: Drift
    with_trigger: Drift | None
    """Drift of unrelated prompts with the trigger; ``None`` for an adapter without one."""


class Answer(Part):
    """Result of one requirement."""

    requirement: str
    """The requirement as the user wrote it."""
    found: float | str | None
    """The figure that was found; ``None`` where it was not measured, which meets no requirement."""
    met: bool


class Evaluation(Document):
    """The thorough evaluation of one adapter, for programs."""

    judged: Judged
    prompts: tuple[HeldOutPrompt, ...]
    prompts_from: str
    """Sentence on where the prompts come from."""
    unrelated: tuple[str, ...]
    seeds: Count
    """Number of pictures of each prompt on each side, at equal seeds."""
    controls: dict[ControlName, str]
    """Trained controls → SHA-256 of their tensors; the base is a control in every evaluation."""
    controls_left_out: dict[ControlName, str]
    """Control that was not trained → why not."""
    pixels: PixelFigures
    fidelity: Fidelity | None
    prompt_keeping: PromptKeeping | None
    drift: DriftFigures | None
    diversity: Diversity | None
    copies: CopyFigures | None
    """Copies of training pictures among pictures of new prompts."""
    recited: CopyFigures | None
    """Copies of training pictures among pictures of training captions, which memorised pictures come back for."""
    reproduced: CopyFigures | None
    """Copies of the named pictures that must not be reproduced; ``None`` where none were named."""
    marks: MarkFigures
    metrics: dict[str, Compared] = Field(default_factory=dict)
    """Further figures by name, see :mod:`detour.evaluation.metric`; empty without a judge, and in schema 1."""
    checkpoints: CheckpointFigures | None
    """Figures of the run's checkpoints; ``None`` where these were not requested."""
    answers: Answers | None = None
    """Answers from the judge's features; ``None`` without a judge or pictures to compare with, and in schema 1."""
    verdict: VerdictName
    headline: str = ""
    """The verdict in one sentence; empty in schema 1."""
    unknown: tuple[str, ...] = ()
    """Figures for which neither loss nor keeping is shown; empty in schema 1."""
    reasons: tuple[str, ...]
    next_step: str = ""
    """Command to run next; empty in schema 1."""
    notes: tuple[str, ...]
    """Sentences on what could not be measured, and why."""
    requirements: tuple[Answer, ...]
    pictures: dict[PromptSet, dict[Side, tuple[str, ...]]]
    """Set of prompts → side → one file a seed, relative to the folder of this file: each holds the pictures of all
    prompts side by side."""


def write_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Write ``evaluation.json``.

    Raises:
        StorageError: disk full or folder not writable.
    """
    write_document(path, evaluation)
