"""Figures of a run that learned, for tests to spoil one at a time."""

from types import SimpleNamespace
from typing import Any, cast

from detour.evaluation.judgement import Judgement
from detour.evaluation.proof import (
    AccuracyFigures,
    GradientFigures,
    HeldOutFigures,
    LargestDifference,
    PixelFigures,
    PromptAccuracy,
    Proof,
    StyleDistance,
)
from detour.evaluation.raw_material import PixelFacts
from detour.evaluation.verdict import Checks, Evidence

GRADIENTS = GradientFigures(
    adapter_tensors=80,
    adapter_tensors_with_gradient=80,
    dead_by_structure=(),
    base_tensors_with_gradient=0,
    base_unchanged=True,
)
PIXELS = PixelFigures(mean_abs_diff=14.2, noise_floor=0.0, pictures=4)


def accuracy(share: float, **parts: float) -> PromptAccuracy:
    return PromptAccuracy(**({"object": share, "colour": share, "place": share} | parts))


def held_out(
    *, base: float = 0.4, adapter: float = 0.1, ceiling: float = 0.02, kept: PromptAccuracy | None = None
) -> HeldOutFigures:
    return HeldOutFigures(
        prompts=16,
        seeds=1,
        style_distance=StyleDistance(base=base, adapter=adapter, ceiling=ceiling),
        prompt_accuracy=AccuracyFigures(
            base=accuracy(0.95), adapter=kept or accuracy(0.94), ceiling=accuracy(0.98)
        ),
    )


UNMEASURED = HeldOutFigures(prompts=0, seeds=0, style_distance=None, prompt_accuracy=None)


FACTS = PixelFacts(
    effect=14.2, diversity=50.0, diversity_expected=52.0, copied=0.0, validation=(0.21, 0.18, 0.17)
)


def judged_as(verdict: str, **said: Any) -> Judgement:
    """What a judge says, as far as the verdict looks at it."""
    told = {"verdict": verdict, "reasons": ("It went 90% of the way.",), "unknown": (), "next_step": "detour",
            "subject": None}  # fmt: skip
    return cast(Judgement, SimpleNamespace(**(told | said)))


def learned_evidence() -> Evidence:
    return Evidence(
        pixels=FACTS,
        moved=PIXELS,
        judged=judged_as("learned"),
        checks=Checks(gradients=GRADIENTS, reload_diff=0, merge_diff=1),
    )


def learned_proof() -> Proof:
    return Proof(
        gradients=GRADIENTS,
        pixels=PIXELS,
        reload=LargestDifference(max_abs_diff=0),
        merge=LargestDifference(max_abs_diff=1),
        held_out=held_out(),
        verdict="learned",
        reasons=("4 pictures have an effect.",),
    )
