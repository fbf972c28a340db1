"""Evaluate a run or an adapter file thoroughly: new and unrelated prompts, controls, every figure, one verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from detour.bases.base import Base
from detour.errors import ConfigError, DataError, TrainingDiverged
from detour.evaluation.checkpoints import CheckpointFigures
from detour.evaluation.compared import ControlName, Side
from detour.evaluation.evaluation import EVALUATION, Answer, Evaluation, PromptSet, write_evaluation
from detour.evaluation.evaluation import Judged as WhoJudged
from detour.evaluation.pixels import Pictures
from detour.evaluation.prompts import prompts_sentence
from detour.evaluation.requirements import answer, parse_requirement
from detour.evaluation.sheet import write_sheet
from detour.specs.evaluation import EvaluationSpec
from detour.verbs.chosen_adapters import choose_adapter
from detour.verbs.judge.checkpoint_scores import evaluate_checkpoints, require_kept_adapters
from detour.verbs.judge.controls import train_control
from detour.verbs.judge.finished_run import FinishedRun, is_run_folder, read_finished_run, run_of_file
from detour.verbs.judge.judging import Judged, Request, gather, judge_subject, open_subject
from detour.verbs.judge.material import folder_pictures
from detour.verbs.judge.presets import thorough_preset
from detour.verbs.judge.report import write_evaluation_report
from detour.verbs.judge.side_pictures import Drawn, SideSource
from detour.verbs.progress import Progress, ProgressFn, silent
from detour.verbs.studies.engine import read_strip

FOLDER = "evaluation"
"""Name of the folder beside ``evaluation.json`` that holds its pictures and sheet."""

SHEET = "sheet.png"
REPORT = "report.html"
CONTROLS: tuple[ControlName, ...] = ("rate_zero", "shuffled")


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """Files and figures that an evaluation produced.

    Attributes:
        folder: that holds ``evaluation.json``.
        evaluation: the figures, the verdict and the answers to the requirements.
        sheet: prompts × (base, adapter, true picture where one is known).
        report: the page to look at.
    """

    folder: Path
    evaluation: Evaluation
    sheet: Path
    report: Path

    @property
    def unmet(self) -> tuple[Answer, ...]:
        """List the requirements that are not met or could not be answered."""
        return tuple(one for one in self.evaluation.requirements if not one.met)


def evaluate_adapter(
    target: Path,
    spec: EvaluationSpec | None = None,
    *,
    out: Path | None = None,
    progress: ProgressFn = silent,
) -> EvaluationResult:
    """Evaluate a run or an adapter file, and write ``evaluation.json`` with all pictures that it was measured on.

    What was drawn or trained for it before is not drawn or trained again, and Ctrl-C keeps what is finished.

    Args:
        target: a run folder, or an adapter file.
        spec: prompts, seeds, controls, judge, requirements.
        out: where results go; ``None``: the run's folder, or ``evaluations/NAME`` for an adapter file.
        progress: told about stages, training of controls and pictures.

    Raises:
        ConfigError: settings that do not go together, a prompt that was trained on, an unknown figure in a requirement.
        RunError: the folder holds no finished run.
        AdapterError: the file is broken or made for another base.
        BaseError: base or judge cannot be opened.
        Interrupted: Ctrl-C while a control was trained; it goes on from there.
    """
    spec = spec or EvaluationSpec()
    requirements = [parse_requirement(text) for text in spec.require]
    subject = open_subject(_run_of(target, spec, out), allow_pickle=spec.allow_pickle)
    run = subject.run
    folder = out or run.folder
    progress(Progress(stage="gathering prompts and references"))
    preset = thorough_preset(spec)
    material = gather(subject, preset, judge=spec.judge)
    if spec.checkpoints:
        require_kept_adapters(run.folder)
    controls, left_out = _controls(run, subject.base, spec, progress)
    named = (
        None if spec.references is None else folder_pictures(Path(spec.references), size_px=subject.size_px)
    )
    request = Request(
        weight=spec.weight,
        folder=folder / FOLDER,
        controls=controls,
        judge=spec.judge,
        references=named,
    )
    judged = judge_subject(subject, preset, material, request, progress=progress)
    checkpoints = None
    if spec.checkpoints:
        checkpoints = evaluate_checkpoints(run.folder, judge=spec.judge, progress=progress)
    evaluation = _evaluation_of(judged, spec, controls, left_out, checkpoints)
    evaluation = evaluation.model_copy(
        update={"requirements": tuple(answer(one, evaluation) for one in requirements)}
    )
    sheet = folder / FOLDER / SHEET
    write_sheet(sheet, judged.pairs)
    write_evaluation_report(folder / REPORT, judged, evaluation, references=named)
    write_evaluation(folder / EVALUATION, evaluation)
    return EvaluationResult(folder=folder, evaluation=evaluation, sheet=sheet, report=folder / REPORT)


def _evaluation_of(
    judged: Judged,
    spec: EvaluationSpec,
    controls: Mapping[ControlName, SideSource],
    left_out: Mapping[ControlName, str],
    checkpoints: CheckpointFigures | None,
) -> Evaluation:
    subject, material, figures = judged.subject, judged.material, judged.figures
    assert figures.pixels is not None, "an evaluation draws the base twice"
    assert figures.marks is not None, "an evaluation draws new prompts"
    return Evaluation(
        judged=WhoJudged(
            adapter=subject.run.adapter_file.stem,
            sha256=subject.source.sha256,
            weight=spec.weight,
            base=subject.base.identity,
            judge=_judge_name(spec, subject.base) if judged.has_judge else None,
        ),
        prompts=material.held_out,
        prompts_from=prompts_sentence(material.held_out),
        unrelated=material.unrelated[0].prompts if material.unrelated else (),
        seeds=spec.seeds,
        controls={name: source.sha256 for name, source in controls.items()},
        controls_left_out=dict(left_out),
        pixels=figures.pixels,
        fidelity=figures.fidelity,
        prompt_keeping=figures.prompt_keeping,
        drift=figures.drift,
        diversity=figures.diversity,
        copies=figures.copies,
        recited=figures.recited,
        reproduced=figures.reproduced,
        marks=figures.marks,
        metrics=dict(figures.metrics),
        checkpoints=checkpoints,
        answers=judged.answers,
        verdict=judged.verdict.name,
        headline=judged.verdict.headline,
        unknown=judged.verdict.unknown,
        reasons=judged.verdict.reasons,
        next_step=judged.verdict.next_step,
        notes=(*judged.notes, *left_out.values()),
        requirements=(),
        pictures=_places_of(judged.drawn),
    )


def read_pictures(folder: Path, evaluation: Evaluation) -> dict[PromptSet, dict[Side, Pictures]]:
    """Read the pictures that an evaluation was measured on.

    Args:
        folder: that holds ``evaluation.json``.
        evaluation: read from it.

    Returns:
        set of prompts → side → uint8 (prompts, seeds, H, W, 3).
    """
    import numpy as np

    return {
        name: {
            side: np.stack([read_strip(folder / file) for file in files], axis=1)
            for side, files in sides.items()
        }
        for name, sides in evaluation.pictures.items()
    }


def _run_of(target: Path, spec: EvaluationSpec, out: Path | None) -> FinishedRun:
    if is_run_folder(target):
        for name in ("base", "revision", "pictures"):
            if getattr(spec, name) is not None:
                raise ConfigError(
                    f"{target}: a run brings its own {name}. Leave --{name} out, or name the run's adapter file."
                )
        run = read_finished_run(target)
    else:
        if spec.controls == "all":
            raise ConfigError(
                f"{target}: trained controls need the settings and pictures of the run. Name the run's folder, or "
                "leave --controls out."
            )
        for asked, why in (
            (spec.checkpoints, "an adapter file has no checkpoints"),
            (spec.no_prior, "an adapter file does not say how to train it again without class pictures"),
        ):
            if asked:
                raise ConfigError(f"{target}: {why}. Name the run's folder.")
        run = run_of_file(
            target,
            out=out or Path("evaluations") / target.stem,
            base=spec.base,
            revision=spec.revision,
            pictures=Path(spec.pictures) if spec.pictures else None,
            allow_pickle=spec.allow_pickle,
        )
    if spec.steps != "auto":
        drawn_as = run.spec.evaluate.model_copy(update={"steps": spec.steps})
        run = replace(run, spec=run.spec.model_copy(update={"evaluate": drawn_as}))
    return run


def _controls(
    run: FinishedRun, base: Base, spec: EvaluationSpec, progress: ProgressFn
) -> tuple[dict[ControlName, SideSource], dict[ControlName, str]]:
    """Train or find the control adapters, and say why each missing one is missing."""
    found: dict[ControlName, SideSource] = {}
    left_out: dict[ControlName, str] = {}

    def side(name: ControlName) -> SideSource:
        chosen = choose_adapter(str(train_control(run, name, progress=progress)), base)
        return SideSource(adapter=chosen.adapter, sha256=chosen.use.tensor_sha256)

    if spec.no_prior:  # it was asked for by name, so that what prevents it is an error
        found["no_prior"] = side("no_prior")
    if spec.controls == "base" or not run.is_run:
        why = (
            "left out by --controls base"
            if run.is_run
            else "an adapter file does not say how to train another one"
        )
        return found, {name: f"Control '{name}' was not trained: {why}." for name in CONTROLS}
    for name in CONTROLS:
        try:
            found[name] = side(name)
        except (DataError, ConfigError, TrainingDiverged) as error:
            left_out[name] = f"Control '{name}' was not trained: {error}"
    return found, left_out


def _judge_name(spec: EvaluationSpec, base: Base) -> str:
    from detour.evaluation.judge import judge_of

    name = spec.judge or judge_of(base.folder)
    if isinstance(name, Path):
        return f"{base.identity}'s own"
    return Path(name).name if Path(name).exists() else name


def _places_of(drawn: Drawn) -> dict[PromptSet, dict[Side, tuple[str, ...]]]:
    sets: tuple[PromptSet, ...] = ("held_out", "unrelated", "unrelated_with_trigger", "recited", "own_class")
    return {
        name: {side: tuple(f"{FOLDER}/{file}" for file in files) for side, files in drawn.files[name].items()}
        for name in sets
        if name in drawn.files
    }
