"""Input of a verdict: features of the pictures of both sides, of the user's own pictures, and of all texts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from detour.evaluation import limits
from detour.evaluation.next_steps import RunFacts
from detour.evaluation.reading import Indices, Rows


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One slot of the prompts whose possible words are known.

    Attributes:
        phrases: (P, K, D) features of each prompt with each of the K words in the slot.
        right: int (P,), the word that was asked for.
        reference_phrases: (M, K, D) of the references' captions; ``None`` where their words are not known.
        reference_right: int (M,).
    """

    phrases: Rows
    right: Indices
    reference_phrases: Rows | None = None
    reference_right: Indices | None = None


@dataclass(frozen=True, kw_only=True)
class ClassSides:
    """Features (P, D) of the subject's prompts without its word, from the same seeds, on both sides."""

    adapter: Rows
    base: Rows


@dataclass(frozen=True, kw_only=True)
class PixelFacts:
    """Figures of pixels and losses.

    Attributes:
        effect: mean absolute difference of the adapter's pictures to the base's, steps of 255.
        noise_floor: the same of the base to itself.
        diversity: how much pictures of different prompts differ.
        diversity_expected: how much they should: the base's or the references', whichever is lower.
        black: number of the adapter's pictures that are black in every pixel where the base's are not: their values
            are not finite.
        copied: share of copies of training pictures among the adapter's pictures; ``None``: not looked for.
        copied_base: the same of the base's.
        validation: loss on pictures kept out, from the first to the last.
    """

    effect: float
    noise_floor: float = 0.0
    diversity: float | None = None
    diversity_expected: float | None = None
    black: int = 0
    copied: float | None = None
    copied_base: float = 0.0
    validation: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Material:
    """All features and facts that a verdict is made from; features have length one and are prompt-major.

    Attributes:
        goal: what was to be learned.
        scale: of the judge's logits.
        prompts: (P, D) features of the prompts without the trigger.
        base: (P × seeds, D) features of the base's pictures.
        adapter: (P × seeds, D) of the adapter's, same prompts and seeds.
        seeds: pictures of each prompt.
        references: (M, D) of the user's own pictures, trained on and kept out.
        kept_out: number of the references that were kept out of training; they come first.
        captions: (M, D) of their captions without the trigger; ``None``: they have none.
        slots: name → part of the prompts, where the base has a vocabulary.
        own_class: of a subject.
        pixels: figures that need no judge.
        margin: share whose loss has to be ruled out.
        run: names and settings, for the command that comes next.
    """

    goal: Literal["style", "subject"] = "style"
    scale: float
    prompts: Rows
    base: Rows
    adapter: Rows
    seeds: int = 1
    references: Rows
    kept_out: int = 0
    captions: Rows | None = None
    slots: Mapping[str, Slot] = field(default_factory=dict)
    own_class: ClassSides | None = None
    pixels: PixelFacts
    margin: float = limits.QUICK_MARGIN
    run: RunFacts = field(default_factory=RunFacts)
