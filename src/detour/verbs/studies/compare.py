"""Runs that differ in a few settings, trained with several seeds: what differs beyond noise?"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from detour.bases.base import Base
from detour.bases.hardware import pick_device
from detour.errors import ConfigError, TrainingDiverged
from detour.evaluation.pixels import Pictures, mean_abs_diff
from detour.evaluation.proof_pictures import ProofRequest
from detour.evaluation.settings import public_settings
from detour.generation.requests import PictureRequest
from detour.specs import RunSpec
from detour.specs.studies import CompareSpec
from detour.verbs.draw.picture_files import versions
from detour.verbs.draw.screening import Screening, open_policy
from detour.verbs.progress import ProgressFn, silent
from detour.verbs.studies.compare_words import FIGURES, finding_of, panels_of
from detour.verbs.studies.engine import CellStore, Experiment, Measure, Measured, Variant, run_cells
from detour.verbs.studies.question_set import QuestionSet, make_question_set
from detour.verbs.studies.result import StudyResult, with_withheld, write_study
from detour.verbs.studies.screened import ScreenedPictures
from detour.verbs.studies.table import Table, tabulate
from detour.verbs.studies.trained_cell import Workshop, costs_of
from detour.verbs.studies.variants import Candidate, make_candidates

BASE, TRUE = "base", "true-pictures"
RUNS = "runs"
SHOWN_PROMPTS = 4


def compare_runs(
    spec: CompareSpec, *, out: Path, force: bool = False, progress: ProgressFn = silent
) -> StudyResult:
    """Train every variant with every seed on the same pictures, and draw the same prompts and seeds with each.

    Each run's folder stays in ``out/runs`` and is what ``detour train`` would have made, but for pictures and proof.

    Args:
        spec: the runs.
        out: folder of the comparison; gone on with where it stands, in the middle of a run too.
        force: begin again where the folder holds other settings.
        progress: told of cells and of steps.

    Raises:
        ConfigError: a setting that does not go or cannot vary, or the folder holds something else.
        BaseError, DataError: base or pictures cannot be opened.
        Withheld: the safety policy stops a prompt; nothing was trained.
        Interrupted: Ctrl-C; everything is saved.
    """
    candidates = make_candidates(spec)
    first = candidates[0].plan
    by_name = {one.name: one for one in candidates}
    questions = make_question_set(first.spec, first.base, judge=spec.judge)
    questions, screening = _screened(spec, first.base, questions)
    ends = [
        Variant(name=BASE, cost=0.05),
        *([] if questions.truths is None else [Variant(name=TRUE, cost=0.02)]),
    ]
    trained = [Variant(name=one.name, settings=one.settings) for one in candidates]
    seeds = range(spec.run.seed, spec.run.seed + spec.seeds)
    experiment = Experiment(
        name="compare",
        variants=[*ends, *trained],
        seeds=seeds,
        settings=_settings(spec, questions, candidates, policy=screening.version),
    )
    cells = Cells(
        spec=spec, candidates=by_name, questions=questions, screening=screening, out=out, progress=progress
    )
    store = run_cells(experiment, cells.prepare, out=out, force=force, progress=progress)
    title = (
        f"{len(trained)} variants × {spec.seeds} seeds on {first.base.identity}: {first.spec.train.steps} steps, "
        f"{len(questions.requests)} prompts"
    )
    return _written(out, experiment, trained, store, questions, spec, title=title, policy=screening.version)


def _screened(spec: CompareSpec, base: Base, questions: QuestionSet) -> tuple[QuestionSet, Screening]:
    """The questions as the safety policy lets them be drawn, and the screening of their pictures.

    Raises:
        ConfigError: the policy steers, and nothing here does.
        Withheld: the policy stops a prompt.
    """
    policy = open_policy(spec.policy, base, device=pick_device(spec.run.base.device))
    if policy is not None and policy.spec.latent is not None:
        raise ConfigError(
            "runs are compared without Safe Latent Diffusion. Leave [latent] out of the policy."
        )

    def of(requests: Sequence[ProofRequest]) -> tuple[Screening, tuple[ProofRequest, ...]]:
        screening = Screening(
            policy,
            [
                PictureRequest(prompt=one.prompt, seed=one.seed, negative_prompt=one.negative_prompt)
                for one in requests
            ],
        )
        screening.require_every()
        pairs = zip(requests, screening.open, strict=True)
        return screening, tuple(replace(one, prompt=passed.prompt) for one, (_, passed) in pairs)

    (screening, requests), (_, of_class) = of(questions.requests), of(questions.class_requests)
    return replace(questions, requests=requests, class_requests=of_class), screening


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Measures the cells of a comparison."""

    spec: CompareSpec
    candidates: dict[str, Candidate]
    questions: QuestionSet
    screening: Screening
    out: Path
    progress: ProgressFn

    def prepare(self, _store: CellStore) -> Measure:
        """The measure; models are loaded when a cell first asks for them."""
        workshop = Workshop(next(iter(self.candidates.values())).plan)

        @functools.cache
        def of_base() -> tuple[Pictures, Pictures, float | None]:
            pictures = workshop.draw(self.questions.requests)
            return pictures, self._of_class(workshop), self.questions.marks(pictures).get("style_distance")

        def measure(variant: Variant, seed: int) -> Measured:
            base, base_class, distance = of_base()
            if variant.name in (BASE, TRUE):
                shown = base if variant.name == BASE else self.questions.truths
                assert shown is not None
                samples = _samples(self._marks(shown, distance))
                return (
                    self._measured(samples, shown)
                    if variant.name == BASE
                    else Measured(samples=samples, pictures=shown)
                )
            plan = self.candidates[variant.name].plan
            run = plan.spec.model_copy(update={"seed": seed})
            folder = self.out / RUNS / f"{variant.name}-s{seed}"
            try:
                workshop.train(
                    plan.with_spec(run), folder, label=f"{variant.name}, seed {seed}", progress=self.progress
                )
            except TrainingDiverged:
                return Measured(samples={"diverged": [1.0]})
            shipped = run, folder
            pictures = workshop.draw(self.questions.requests, shipped)
            of_class = self._of_class(workshop, shipped)
            figures = {"pixels": mean_abs_diff(pictures, base), **costs_of(folder, run), "diverged": 0.0}
            if len(of_class):
                figures["class_pixels"] = mean_abs_diff(of_class, base_class)
            return self._measured(_samples({**self._marks(pictures, distance), **figures}), pictures)

        return measure

    def _measured(self, samples: dict[str, list[float]], drawn: Pictures) -> Measured:
        """The result of a cell: figures of what was drawn, and pictures without those that the policy withheld."""
        screened = ScreenedPictures.of(drawn, self.screening.seeded(self.questions.requests[0].seed))
        return Measured(samples=samples, pictures=screened.shown, withheld=screened.withheld)

    def _marks(self, pictures: Pictures, of_base: float | None) -> dict[str, float]:
        """What the questions says of the pictures, and how much of the base's style distance is left."""
        marks = self.questions.marks(pictures)
        return marks if of_base is None else {"style_ratio": marks["style_distance"] / of_base, **marks}

    def _of_class(self, workshop: Workshop, shipped: tuple[RunSpec, Path] | None = None) -> Pictures:
        if not self.questions.class_requests:
            return np.empty((0, 1, 1, 3), np.uint8)
        return workshop.draw(self.questions.class_requests, shipped)


def _samples(figures: dict[str, float]) -> dict[str, list[float]]:
    """What was trained is one sample, however many pictures it drew."""
    return {name: [value] for name, value in figures.items()}


def _settings(
    spec: CompareSpec, questions: QuestionSet, candidates: Sequence[Candidate], *, policy: str
) -> dict[str, object]:
    """Everything that a cell depends on, but for the varied settings, which its variant's name says."""
    plan = candidates[0].plan
    run = public_settings(spec.run, base_identity=plan.base.identity)
    shared = run.model_copy(update={"seed": 0, "name": "auto"})
    return {
        "base": plan.base.identity,
        "base_sha256": plan.base.content_sha256(),
        "base_revision": plan.base.revision,
        "run": shared.model_dump(mode="json", by_alias=True),
        "pictures": plan.dataset.fingerprint,
        "prompts": [request.prompt for request in questions.requests],
        "judge": None if questions.judge is None else questions.judge.fingerprint,
        "device": plan.spec.base.device.partition(":")[0],
        "threads": torch.get_num_threads(),
        "versions": versions(),
        **({"policy": policy} if policy else {}),
    }


def _written(
    out: Path,
    experiment: Experiment,
    trained: Sequence[Variant],
    store: CellStore,
    questions: QuestionSet,
    spec: CompareSpec,
    *,
    title: str,
    policy: str,
) -> StudyResult:
    runs = Experiment(
        name=experiment.name, variants=trained, seeds=experiment.seeds, settings=experiment.settings
    )
    ends = [variant for variant in experiment.variants if variant not in trained]
    # Base and true pictures are levels to read the others by: no comparison is spent on them.
    alone = [
        tabulate(few, store.of(few), reference=end.name).rows
        for end in ends
        for few in [
            Experiment(
                name=experiment.name,
                variants=[end],
                seeds=experiment.seeds[:1],
                settings=experiment.settings,
            )
        ]
    ]
    compared = tabulate(runs, store.of(runs), reference=trained[0].name)
    table = Table(
        experiment=compared.experiment,
        reference=compared.reference,
        seeds=compared.seeds,
        rows=(*(row for rows in alone for row in rows), *compared.rows),
    )
    shown = range(min(SHOWN_PROMPTS, len(questions.requests)))
    seed = experiment.seeds[0]
    columns = [BASE, *(one.name for one in trained), *([] if questions.truths is None else [TRUE])]
    result = write_study(
        out,
        table,
        finding_of(runs, store.of(runs), table, base_rows=(BASE, TRUE)),
        title=title,
        panels=panels_of(table, [axis.key for axis in spec.axes], levels=(BASE, TRUE)),
        sheet=[
            (
                questions.requests[index].prompt,
                np.stack([_picture(store, name, seed, index) for name in columns]),
            )
            for index in shown
        ],
        columns=columns,
    )
    return with_withheld(result, store.of(experiment), policy=policy)


def _picture(store: CellStore, variant: str, seed: int, index: int) -> Pictures:
    """(H, W, 3) of a cell; white where its run diverged."""
    try:
        return store.pictures(variant, seed)[index]
    except FileNotFoundError:
        return np.full_like(store.pictures(BASE, seed)[index], 255)


__all__ = ["BASE", "FIGURES", "TRUE", "compare_runs"]
