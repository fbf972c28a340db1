"""Models of ``proof.json``, schema version 2; a file with anything else in it is refused."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from detour.evaluation.answers import Answers
from detour.evaluation.compared import Part
from detour.evaluation.documents import Document, read_document, write_document
from detour.evaluation.next_steps import VerdictWord

VerdictName = VerdictWord
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Difference = Annotated[float, Field(ge=0, le=255)]


class GradientFigures(Part):
    """Result of the gradient proof before step 1, and whether the base's weights stayed the same."""

    adapter_tensors: Count
    adapter_tensors_with_gradient: Count
    dead_by_structure: tuple[str, ...]
    base_tensors_with_gradient: Count
    base_unchanged: bool


class PixelFigures(Part):
    """Pixel difference with and without the adapter, in steps of 255."""

    mean_abs_diff: Difference
    noise_floor: Difference
    pictures: Count


class LargestDifference(Part):
    """Largest difference of two ways to draw one picture, in steps of 255; ``None`` without a second way."""

    max_abs_diff: Annotated[int, Field(ge=0, le=255)] | None


class StyleDistance(Part):
    """Biased squared MMD to true pictures of the style; the ceiling is that of a second set of true pictures."""

    base: float
    adapter: float
    ceiling: float


class PromptAccuracy(Part):
    """Share of pictures for which the judge picks the right word of a slot among all words."""

    object: Share
    colour: Share
    place: Share


class AccuracyFigures(Part):
    """Prompt accuracy without and with the adapter, and on true pictures of the style."""

    base: PromptAccuracy
    adapter: PromptAccuracy
    ceiling: PromptAccuracy | None
    """Accuracy on true pictures; ``None`` where the words that these show are not known."""


class HeldOutFigures(Part):
    """Scores on prompts that training never saw; ``None`` where nothing could be measured, with a reason."""

    prompts: Count
    seeds: Count
    """Number of pictures of each prompt, each from its own seed."""
    style_distance: StyleDistance | None
    prompt_accuracy: AccuracyFigures | None


class Proof(Document):
    """The proof of one run, for programs."""

    gradients: GradientFigures | None
    pixels: PixelFigures
    reload: LargestDifference
    merge: LargestDifference
    held_out: HeldOutFigures
    answers: Answers | None = None
    """Answers from the judge's features; ``None`` where there was too little material, and in schema 1."""
    verdict: VerdictName
    headline: str = ""
    """The verdict in one sentence; empty in schema 1."""
    unknown: tuple[str, ...] = ()
    """Figures for which neither loss nor keeping is shown; empty in schema 1."""
    reasons: tuple[str, ...]
    next_step: str = ""
    """Command to run next; empty in schema 1."""


def write_proof(path: Path, proof: Proof) -> None:
    """Write ``proof.json``.

    Raises:
        StorageError: disk full or folder not writable.
    """
    write_document(path, proof)


def read_proof(path: Path) -> Proof:
    """Read ``proof.json``.

    Raises:
        RunError: missing, or of no schema version that is known.
    """
    return read_document(path, Proof, command="detour prove")
