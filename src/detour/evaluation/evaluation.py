"""``evaluation.json``, schema version 2, as models: what is written is what can be read back, and nothing else."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from detour.evaluation.answers import Answers
from detour.evaluation.checkpoints import CheckpointFigures
from detour.evaluation.compared import Compared, ControlName, Part, Side
from detour.evaluation.copies import CopyFigures
from detour.evaluation.diversity import Diversity
from detour.evaluation.documents import Document, read_document, write_document
from detour.evaluation.drift import Drift
from detour.evaluation.fidelity import Fidelity
from detour.evaluation.marks import MarkFigures
from detour.evaluation.prompt_keeping import PromptKeeping
from detour.evaluation.prompts import HeldOutPrompt
from detour.evaluation.proof import Count, PixelFigures, VerdictName

EVALUATION = "evaluation.json"

PromptSet = Literal["held_out", "unrelated", "unrelated_with_trigger", "recited", "own_class"]
"""Sets of prompts: new ones; those that have nothing to do with the training, without and with the trigger;
training captions again; a subject's new ones with its class in its place."""


class Judged(Part):
    """What was judged, and by whom."""

    adapter: str
    """Name of the file, without its folder."""
    sha256: str
    """Of its tensors."""
    weight: float
    base: str
    """Its identity, without a path."""
    judge: str | None
    """``None``: nobody scored the pictures."""


class DriftFigures(Part):
    """What the adapter does to prompts that have nothing to do with it."""

    without_trigger: Drift
    with_trigger: Drift | None
    """``None``: it has no trigger."""


class Answer(Part):
    """What became of one requirement."""

    requirement: str
    """As it was asked."""
    found: float | str | None
    """``None``: not measured, which meets nothing."""
    met: bool


class Evaluation(Document):
    """The thorough judgement of one adapter, for programs."""

    judged: Judged
    prompts: tuple[HeldOutPrompt, ...]
    prompts_from: str
    """Where the prompts come from, in one sentence."""
    unrelated: tuple[str, ...]
    seeds: Count
    """Pictures of each prompt on each side, from the same seeds."""
    controls: dict[ControlName, str]
    """Trained controls → SHA-256 of their tensors. The base is always one."""
    controls_left_out: dict[ControlName, str]
    """Why a control was not trained."""
    pixels: PixelFigures
    fidelity: Fidelity | None
    prompt_keeping: PromptKeeping | None
    drift: DriftFigures | None
    diversity: Diversity | None
    copies: CopyFigures | None
    """Of training pictures."""
    recited: CopyFigures | None
    """Of training pictures, where the prompts are training captions: what is learned by heart comes back for them."""
    reproduced: CopyFigures | None
    """Of pictures that must not be reproduced; ``None``: none were named."""
    marks: MarkFigures
    metrics: dict[str, Compared] = Field(default_factory=dict)
    """Further figures by name, see :mod:`detour.evaluation.metric`; empty without a judge, and in schema 1."""
    checkpoints: CheckpointFigures | None
    """``None``: they were not asked for."""
    answers: Answers | None = None
    """What the judge's features say; ``None`` without a judge or pictures to compare with, and in schema 1."""
    verdict: VerdictName
    headline: str = ""
    """The verdict in one sentence; empty in schema 1."""
    unknown: tuple[str, ...] = ()
    """Figures of which neither a loss nor keeping can be told; empty in schema 1."""
    reasons: tuple[str, ...]
    next_step: str = ""
    """A command; empty in schema 1."""
    notes: tuple[str, ...]
    """What could not be measured, and why."""
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


def read_evaluation(path: Path) -> Evaluation:
    """Read ``evaluation.json``.

    Raises:
        RunError: missing, or of no schema version that is known.
    """
    return read_document(path, Evaluation, command="detour evaluate")
