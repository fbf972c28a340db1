"""Presets of the judge: the quick proof, the thorough evaluation, and the scoring of checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

from detour.specs import RunSpec
from detour.specs.evaluation import EvaluationSpec


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Numbers of prompts, seeds and controls of one judgement.

    Attributes:
        prompts: of the user; empty takes captions that were kept out, prompts of the base's own world, or templates.
        num_prompts: as many of those; 0: no new prompts at all.
        seeds: pictures of each prompt on each side.
        drift_prompts: prompts that have nothing to do with the training.
        recited: training captions that are asked again.
        thorough: whether prompts that prove nothing are refused instead of left out with a note, whether features are
            kept on disk, and whether the default judge is fetched where the base has none.
    """

    prompts: tuple[str, ...] = ()
    num_prompts: int = 16
    seeds: int = 1
    drift_prompts: int = 0
    recited: int = 0
    thorough: bool = False


RECITED = 8
"""Number of training captions that the thorough evaluation draws, evenly spaced over the data."""


def quick_preset(run: RunSpec) -> Preset:
    """Preset of ``detour prove`` and of checkpoints: the run's own ``evaluate.prompts``, or as many as it says."""
    return Preset(prompts=run.evaluate.prompts, num_prompts=run.evaluate.num_prompts)


def thorough_preset(spec: EvaluationSpec) -> Preset:
    """Preset of ``detour evaluate``."""
    return Preset(
        prompts=spec.prompts,
        num_prompts=spec.num_prompts,
        seeds=spec.seeds,
        drift_prompts=spec.drift_prompts,
        recited=RECITED,
        thorough=True,
    )
