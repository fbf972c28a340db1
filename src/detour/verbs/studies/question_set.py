"""Prompts that every run of a comparison draws, and scores of its pictures by the figures that judge every adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from detour.data.captions import with_trigger
from detour.errors import ConfigError
from detour.evaluation.feature_cache import FeatureCache
from detour.evaluation.judge import Judge, PromptFacts
from detour.evaluation.judge_choice import can_be_judged, open_judge
from detour.evaluation.pixels import Pictures
from detour.evaluation.proof_pictures import ProofRequest
from detour.evaluation.report import Metrics
from detour.specs import RunSpec
from detour.specs.resolved import ResolvedRun
from detour.verbs.datasets.practice_subject import NEW_PLACES, WorldSubject, read_world_subject
from detour.verbs.judge.figures import Scorer
from detour.verbs.judge.finished_run import FinishedRun
from detour.verbs.judge.held_out_material import HELD_OUT_SEED, REFERENCES_A_PROMPT, read_training_pictures
from detour.verbs.judge.material import EvaluationMaterial, PromptGroup, gather_material
from detour.verbs.judge.presets import quick_preset
from detour.verbs.judge.side_pictures import requests_of

if TYPE_CHECKING:
    from detour.bases.base import Base

FIRST_CLASS_SEED = 3000
"""Seed of the first picture of a subject's class; later pictures use consecutive seeds."""


@dataclass(frozen=True, kw_only=True)
class QuestionSet:
    """Prompts, and what their pictures are compared with.

    Attributes:
        requests: the same for every run, seeds included.
        class_requests: of a subject's class without its own words, to see how far those move.
        material: prompts, references and what the prompts ask for.
        subject: uint8 (N, H, W, 3), what the subject looks like; ``None`` for a style.
        truths: a true picture of each request, where somebody can draw it.
        judge: ``None`` where the base has none and none was named.
    """

    requests: tuple[ProofRequest, ...]
    class_requests: tuple[ProofRequest, ...] = ()
    material: EvaluationMaterial
    subject: Pictures | None = None
    truths: Pictures | None = None
    judge: Judge | None = None

    @cached_property
    def _scorer(self) -> Scorer | None:
        if self.judge is None:
            return None
        return Scorer(judge=self.judge, material=self.material, likeness_to=self.subject)

    def marks(self, pictures: Pictures) -> dict[str, float]:
        """Figures of one run's pictures; empty without a judge.

        Args:
            pictures: uint8 (requests, H, W, 3).
        """
        return {} if self._scorer is None else self._scorer.scores(pictures)


def make_question_set(spec: ResolvedRun, base: Base, *, judge: str | None) -> QuestionSet:
    """Gather prompts and references for the runs of a comparison.

    Args:
        spec: a resolved one of them; they share prompts, pictures and size.
        base: what they are trained on.
        judge: folder of a CLIP model; ``None`` takes the base's own where it has one.

    Raises:
        ConfigError: there are no prompts.
        DataError: the training pictures cannot be read.
    """
    from detour.bases.hardware import pick_device

    device, size_px, world = pick_device(spec.base.device), spec.data.resolution, world_folder(spec)
    opened, _ = open_judge(judge, base, device=device, cache=FeatureCache(on_disk=False), fetch=False)
    run = FinishedRun(
        folder=world, spec=spec, adapter_file=world, state={}, gradients=None, metrics=Metrics()
    )
    subject = read_world_subject(world)
    if subject is not None and base.embedded is not None:
        return _of_subject(spec, subject, opened, size_px)
    training = read_training_pictures(spec, size_px=size_px)
    material = gather_material(
        run, base, quick_preset(spec), size_px=size_px, judged=can_be_judged(judge, base)
    )
    if not material.new_prompts.prompts:
        raise ConfigError("no prompts: name some with --prompt, eight or more make differences visible.")
    is_subject = spec.goal == "subject"
    shown = np.concatenate([training.held_out, training.train])
    return QuestionSet(
        requests=tuple(requests_of(material.new_prompts.prompts, 0)),
        class_requests=_class_requests(spec),
        material=replace(material, references=None) if is_subject else material,
        subject=shown if is_subject else None,
        truths=material.truths,
        judge=opened,
    )


def world_folder(spec: RunSpec) -> Path:
    """Where ``world.json`` of drawn pictures lies: with them, or beside their folder as the demo keeps it."""
    source = Path(spec.data.all_folders()[0].source)
    return source if (source / "world.json").exists() else source.parent


def _of_subject(spec: RunSpec, subject: WorldSubject, judge: Judge | None, size_px: int) -> QuestionSet:
    """The subject in places that its pictures do not show."""
    from detour.pocket.world import place_phrase

    count = spec.evaluate.num_prompts
    places = [NEW_PLACES[i % len(NEW_PLACES)] for i in range(count)]
    trigger = next(iter(spec.data.triggers()), "")
    prompts = tuple(with_trigger(f"{subject.words} {place_phrase(place)}", trigger) for place in places)
    facts = tuple(
        PromptFacts(object=subject.class_word, colour=subject.colour, place=place) for place in places
    )
    group = PromptGroup(prompts=prompts, plain=prompts, facts=facts, slots=("place",))
    return QuestionSet(
        requests=tuple(requests_of(prompts, 0)),
        class_requests=_class_requests(spec),
        material=EvaluationMaterial(held_out=(), new_prompts=group, unrelated=(), trigger=trigger),
        subject=_true_pictures(
            subject, list(NEW_PLACES) * REFERENCES_A_PROMPT, size_px, seed=HELD_OUT_SEED + 10_000
        ),
        truths=_true_pictures(subject, places, size_px, seed=HELD_OUT_SEED),
        judge=judge,
    )


def _true_pictures(subject: WorldSubject, places: Sequence[str], size_px: int, *, seed: int) -> Pictures:
    from detour.pocket.world import HOUSE, compose_scene, render

    things = [(subject.kind, subject.colour)]
    scenes = [compose_scene(seed=seed + i, things=things, place=place) for i, place in enumerate(places)]
    return np.stack([render(scene, HOUSE, size_px=size_px) for scene in scenes])


def _class_requests(spec: RunSpec) -> tuple[ProofRequest, ...]:
    """Ask for as many pictures of the class as of the subject, its prompts in turns."""
    if spec.goal != "subject":
        return ()
    prompts = spec.prior.class_prompts
    count = len(spec.evaluate.prompts) or spec.evaluate.num_prompts
    return tuple(
        ProofRequest(prompt=prompts[i % len(prompts)], seed=FIRST_CLASS_SEED + i)
        for i in range(count if prompts else 0)
    )
