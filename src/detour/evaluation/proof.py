"""``proof.json``, schema version 2, as models: what is written is what can be read back, and nothing else."""

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
    """What the gradient proof found before step 1, and whether the base's bytes were the same afterwards."""

    adapter_tensors: Count
    adapter_tensors_with_gradient: Count
    dead_by_structure: tuple[str, ...]
    base_tensors_with_gradient: Count
    base_unchanged: bool


class PixelFigures(Part):
    """With the adapter against without, steps of 255."""

    mean_abs_diff: Difference
    noise_floor: Difference
    pictures: Count


class LargestDifference(Part):
    """Largest difference of two ways to one picture, steps of 255; ``None`` without a second way."""

    max_abs_diff: Annotated[int, Field(ge=0, le=255)] | None


class StyleDistance(Part):
    """Biased squared MMD to true pictures of the style; the ceiling is a second set of true pictures."""

    base: float
    adapter: float
    ceiling: float


class PromptAccuracy(Part):
    """Share of the pictures whose part of the prompt the judge picks among all alternatives."""

    object: Share
    colour: Share
    place: Share


class AccuracyFigures(Part):
    """Prompt accuracy without and with the adapter, and on true pictures of the style."""

    base: PromptAccuracy
    adapter: PromptAccuracy
    ceiling: PromptAccuracy | None
    """``None``: nobody knows what the true pictures show word by word."""


class HeldOutFigures(Part):
    """Scores on prompts that training never saw; ``None`` where nothing could be measured, with a reason."""

    prompts: Count
    seeds: Count
    """Pictures of each prompt, each from its own seed."""
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
    """What the judge's features say; ``None`` where there was too little to look at, and in schema 1."""
    verdict: VerdictName
    headline: str = ""
    """The verdict in one sentence; empty in schema 1."""
    unknown: tuple[str, ...] = ()
    """Figures of which neither a loss nor keeping can be told; empty in schema 1."""
    reasons: tuple[str, ...]
    next_step: str = ""
    """A command; empty in schema 1."""


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
