"""What every run of a comparison is asked, and how its pictures are marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from detour.data.captions import with_trigger
from detour.errors import ConfigError
from detour.evaluation.distance import style_distance
from detour.evaluation.held_out import MIN_REFERENCES, AccuracyTask, StyleTask
from detour.evaluation.judge import Judge, PromptFacts
from detour.evaluation.pixels import Pictures
from detour.evaluation.proof_pictures import ProofRequest
from detour.recipes.draw_subject import NEW_PLACES, WorldSubject, read_world_subject
from detour.recipes.held_out_material import (
    FIRST_HELD_OUT_SEED,
    HELD_OUT_SEED,
    REFERENCES_A_PROMPT,
    gather_held_out,
    read_training_pictures,
)
from detour.specs import RunSpec

if TYPE_CHECKING:
    from detour.bases.base import Base

FIRST_CLASS_SEED = 3000
"""Seed of the first picture of a subject's class; the others follow."""


class RememberingJudge(Judge):
    """A judge that reads each prompt once: every run of a comparison is asked the same."""

    def text_features(self, prompts: Sequence[str]) -> Tensor:
        """As of any judge; what was read before is not read again."""
        known: dict[str, Tensor] = self.__dict__.setdefault("_known", {})
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in known]
        known.update(zip(new, super().text_features(new), strict=True))
        return torch.stack([known[prompt] for prompt in prompts])


@dataclass(frozen=True, kw_only=True)
class Exam:
    """Prompts, and what their pictures are held against.

    Attributes:
        requests: the same for every run, seeds included.
        class_requests: of a subject's class without its own words: how far do they move?
        style: what the style looks like; ``None`` for a subject.
        subject: uint8 (N, H, W, 3), what the subject looks like; ``None`` for a style.
        accuracy: what the prompts ask for, where that is known.
        truths: a true picture of each request, where somebody can draw it.
        judge: ``None`` where the base has none and none was named.
    """

    requests: tuple[ProofRequest, ...]
    class_requests: tuple[ProofRequest, ...] = ()
    style: StyleTask | None = None
    subject: Pictures | None = None
    accuracy: AccuracyTask | None = None
    truths: Pictures | None = None
    judge: Judge | None = None

    @cached_property
    def _references(self) -> Tensor:
        assert self.judge is not None
        assert self.style is not None
        return self.judge.picture_features(self.style.references)

    @cached_property
    def _likeness(self) -> Tensor:
        assert self.judge is not None
        assert self.subject is not None
        return torch.nn.functional.normalize(self.judge.picture_features(self.subject).mean(0), dim=0)

    @cached_property
    def _wishes(self) -> Tensor:
        assert self.judge is not None
        return self.judge.text_features([request.prompt for request in self.requests])

    def marks(self, pictures: Pictures) -> dict[str, float]:
        """Figures of one run's pictures; empty without a judge.

        Args:
            pictures: uint8 (requests, H, W, 3).
        """
        if self.judge is None:
            return {}
        looks = self.judge.picture_features(pictures)
        marks: dict[str, float] = {}
        if self.style is not None:
            marks["style_distance"] = style_distance(looks, self._references)
        if self.subject is not None:
            marks["likeness"] = float((looks @ self._likeness).mean())
        if self.accuracy is not None:
            task = self.accuracy
            marks |= self.judge.prompt_accuracy(pictures, task.facts, task.vocabulary, task.phrase)
        marks["clip"] = float((looks * self._wishes).sum(-1).mean())
        return marks


def set_exam(spec: RunSpec, base: Base, *, judge: str | None) -> Exam:
    """Prompts and references for the runs of a comparison.

    Args:
        spec: a resolved one of them; they share prompts, pictures and size.
        base: what they are trained on.
        judge: folder of a CLIP model; ``None`` takes the base's own where it has one.

    Raises:
        ConfigError: there are no prompts.
        DataError: the training pictures cannot be read.
    """
    folder = Path(judge) if judge else base.folder / "judge"
    opened = RememberingJudge.load(folder) if judge or folder.is_dir() else None
    size_px, world = int(spec.data.resolution), world_folder(spec)
    subject = read_world_subject(world)
    if subject is not None and base.embedded is not None:
        return _of_subject(spec, subject, opened, size_px)
    training = read_training_pictures(spec, size_px=size_px)
    material = gather_held_out(spec, base, world, training, size_px=size_px)
    if not material.requests:
        raise ConfigError("no prompts: name some with --prompt, eight or more make differences visible.")
    is_subject = spec.goal == "subject"
    style = material.style
    if style is not None and min(len(style.references), len(style.others)) < MIN_REFERENCES:
        style = None
    shown = np.concatenate([training.held_out, training.train])
    return Exam(
        requests=material.requests,
        class_requests=_class_requests(spec),
        style=None if is_subject else style,
        subject=shown if is_subject else None,
        accuracy=material.accuracy,
        truths=material.truths,
        judge=opened,
    )


def world_folder(spec: RunSpec) -> Path:
    """Where ``world.json`` of drawn pictures lies: with them, or beside their folder as the demo keeps it."""
    source = Path(spec.data.all_folders()[0].source)
    return source if (source / "world.json").exists() else source.parent


def _of_subject(spec: RunSpec, subject: WorldSubject, judge: Judge | None, size_px: int) -> Exam:
    """The subject in places that its pictures do not show."""
    from detour.pocket.world import VOCABULARY, place_phrase, plain_prompt

    count = spec.evaluate.num_prompts
    places = [NEW_PLACES[i % len(NEW_PLACES)] for i in range(count)]
    trigger = next(iter(spec.data.triggers()), "")
    prompts = [with_trigger(f"{subject.words} {place_phrase(place)}", trigger) for place in places]
    truths = _true_pictures(subject, places, size_px, seed=HELD_OUT_SEED)
    facts = [PromptFacts(object=subject.class_word, colour=subject.colour, place=place) for place in places]
    return Exam(
        requests=tuple(
            ProofRequest(prompt=prompt, seed=FIRST_HELD_OUT_SEED + i) for i, prompt in enumerate(prompts)
        ),
        class_requests=_class_requests(spec),
        subject=_true_pictures(
            subject, list(NEW_PLACES) * REFERENCES_A_PROMPT, size_px, seed=HELD_OUT_SEED + 10_000
        ),
        accuracy=AccuracyTask(
            facts=facts,
            vocabulary={"place": VOCABULARY.places},
            phrase=lambda one: plain_prompt(one.object, one.colour, one.place),
            truths=truths,
        ),
        truths=truths,
        judge=judge,
    )


def _true_pictures(subject: WorldSubject, places: list[str], size_px: int, *, seed: int) -> Pictures:
    from detour.pocket.world import HOUSE, compose_scene, render

    things = [(subject.kind, subject.colour)]
    scenes = [compose_scene(seed=seed + i, things=things, place=place) for i, place in enumerate(places)]
    return np.stack([render(scene, HOUSE, size_px=size_px) for scene in scenes])


def _class_requests(spec: RunSpec) -> tuple[ProofRequest, ...]:
    """As many as there are prompts for the subject, the class prompts in turns."""
    if spec.goal != "subject":
        return ()
    prompts = spec.prior.class_prompts
    count = len(spec.evaluate.prompts) or spec.evaluate.num_prompts
    return tuple(
        ProofRequest(prompt=prompts[i % len(prompts)], seed=FIRST_CLASS_SEED + i)
        for i in range(count if prompts else 0)
    )
