"""Evaluate a run or an adapter file thoroughly: new and unrelated prompts, controls, every figure, one verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from detour.adapters.adapter import Adapter
from detour.bases.base import Base, open_base
from detour.bases.hardware import pick_device, set_threads
from detour.errors import ConfigError, DataError, TrainingDiverged
from detour.evaluation.compared import ControlName, Side
from detour.evaluation.evaluation import (
    EVALUATION,
    Answer,
    Evaluation,
    Judged,
    PromptSet,
    write_evaluation,
)
from detour.evaluation.feature_cache import FeatureCache
from detour.evaluation.pixels import Pictures
from detour.evaluation.prompts import prompts_sentence
from detour.evaluation.report import Pair
from detour.evaluation.requirements import answer, parse_requirement
from detour.evaluation.sheet import write_sheet
from detour.files import sha256_of
from detour.recipes.chosen_adapters import ChosenAdapter, base_for, choose_adapter
from detour.recipes.evaluate_checkpoints import evaluate_checkpoints, require_kept_adapters
from detour.recipes.evaluation_controls import train_control
from detour.recipes.evaluation_figures import measure, open_judge
from detour.recipes.evaluation_material import EvaluationMaterial, folder_pictures, gather_material
from detour.recipes.evaluation_pictures import Drawn, Painter, SideSource, requests_of
from detour.recipes.evaluation_report import write_evaluation_report
from detour.recipes.evaluation_verdict import judge_run
from detour.recipes.experiments.engine import read_strip
from detour.recipes.finished_run import FinishedRun, is_run_folder, read_finished_run, run_of_file
from detour.recipes.progress import Progress, ProgressFn, silent
from detour.recipes.save_run import WHOLE_NETWORK
from detour.specs.evaluation import EvaluationSpec
from detour.training.assembly import as_trained

FOLDER = "evaluation"
"""Beside ``evaluation.json``: pictures and sheet."""

SHEET = "sheet.png"
REPORT = "report.html"
CONTROLS: tuple[ControlName, ...] = ("rate_zero", "shuffled")


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """What an evaluation left behind.

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
        """Requirements that are not met, or could not be answered."""
        return tuple(one for one in self.evaluation.requirements if not one.met)


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """What is judged, opened: the run with the evaluation's settings, its base and its adapter."""

    run: FinishedRun
    base: Base
    adapter: ChosenAdapter | None
    """``None`` for a fully trained base."""


def evaluate_adapter(
    target: Path,
    spec: EvaluationSpec | None = None,
    *,
    out: Path | None = None,
    progress: ProgressFn = silent,
) -> EvaluationResult:
    """Judge a run or an adapter file, and write ``evaluation.json`` with all pictures that it stands on.

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
    subject = _open(target, spec, out)
    run, base = subject.run, subject.base
    folder = out or run.folder
    side_px = run.spec.data.resolution
    size_px = side_px if isinstance(side_px, int) else base.native_size_px
    progress(Progress(stage="gathering prompts and references"))
    material = gather_material(run, base, spec, size_px=size_px)
    adapter = _source(subject)
    sides: dict[Side, SideSource] = {"base": SideSource(), "adapter": adapter}
    if spec.checkpoints:
        require_kept_adapters(run.folder)
    controls, left_out = _controls(run, base, spec, progress)
    sides.update(controls.items())
    painter = Painter(
        folder=folder / FOLDER,
        base=base,
        spec=run.spec,
        device=pick_device(run.spec.base.device),
        weight=spec.weight,
    )
    drawn = painter.draw_all(sides, _prompt_sets(material), seeds=spec.seeds, progress=progress)
    progress(Progress(stage="scoring"))
    cache = FeatureCache()
    try:
        judge, nobody = open_judge(spec.judge, base, device=painter.device, cache=cache)
        named = None if spec.references is None else folder_pictures(Path(spec.references), size_px=size_px)
        figures = measure(judge, drawn, material, seeds=spec.seeds, references=named)
        checkpoints = (
            evaluate_checkpoints(run.folder, judge=judge, progress=progress) if spec.checkpoints else None
        )
    finally:
        cache.close()
    verdict = judge_run(
        run, adapter.adapter or Adapter({}), figures, drawn, material,
        weight=spec.weight, layers_matched=lambda: painter.layers_matched(adapter),
    )  # fmt: skip
    notes = (*material.notes, *((nobody,) if nobody else ()), *figures.notes, *left_out.values())
    judged = Judged(
        adapter=run.adapter_file.stem,
        sha256=adapter.sha256,
        weight=spec.weight,
        base=base.identity,
        judge=None if judge is None else _judge_name(spec, base),
    )
    evaluation = Evaluation(
        judged=judged,
        prompts=material.held_out,
        prompts_from=prompts_sentence(material.held_out),
        unrelated=material.unrelated[0].prompts if material.unrelated else (),
        seeds=spec.seeds,
        controls={name: source.sha256 for name, source in controls.items()},
        controls_left_out=left_out,
        pixels=figures.pixels,
        fidelity=figures.fidelity,
        prompt_keeping=figures.prompt_keeping,
        drift=figures.drift,
        diversity=figures.diversity,
        copies=figures.copies,
        recited=figures.recited,
        reproduced=figures.reproduced,
        marks=figures.marks,
        checkpoints=checkpoints,
        verdict=verdict.name,
        reasons=verdict.reasons,
        notes=notes,
        requirements=(),
        pictures=_places_of(drawn),
    )
    evaluation = evaluation.model_copy(
        update={"requirements": tuple(answer(one, evaluation) for one in requirements)}
    )
    sheet = folder / FOLDER / SHEET
    pairs = pairs_of(material, drawn, seeds=spec.seeds)
    write_sheet(sheet, pairs)
    write_evaluation_report(
        folder / REPORT, run, base, evaluation,
        pairs=pairs, material=material, drawn=drawn, references=named,
    )  # fmt: skip
    write_evaluation(folder / EVALUATION, evaluation)
    return EvaluationResult(folder=folder, evaluation=evaluation, sheet=sheet, report=folder / REPORT)


def read_pictures(folder: Path, evaluation: Evaluation) -> dict[PromptSet, dict[Side, Pictures]]:
    """The pictures that an evaluation stands on.

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


def pairs_of(material: EvaluationMaterial, drawn: Drawn, *, seeds: int) -> list[Pair]:
    """Same prompt and seed without and with the adapter, and a true picture where one is in the style."""
    new = drawn.pictures["held_out"]
    truths = material.truths if material.truths_in_style else None
    requests = [requests_of(material.asked.prompts, number) for number in range(seeds)]
    return [
        Pair(
            prompt=prompt,
            seed=requests[number][i].seed,
            base=new["base"][i * seeds + number],
            adapter=new["adapter"][i * seeds + number],
            truth=None if truths is None else truths[i * seeds + number],
        )
        for i, prompt in enumerate(material.asked.prompts)
        for number in range(seeds)
    ]


def _open(target: Path, spec: EvaluationSpec, out: Path | None) -> _Subject:
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
        if spec.checkpoints:
            raise ConfigError(f"{target}: an adapter file has no checkpoints. Name the run's folder.")
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
    set_threads(run.spec.train.threads)
    base = as_trained(open_base(run.spec.base.name, revision=run.spec.base.revision), run.spec)
    base.require_weights()
    if run.spec.adapter.method == "full" and run.is_run:
        return _Subject(run=run, base=base, adapter=None)
    chosen = choose_adapter(str(run.adapter_file), base, allow_pickle=spec.allow_pickle)
    return _Subject(run=run, base=base_for(base, [chosen]), adapter=chosen)


def _source(subject: _Subject) -> SideSource:
    if subject.adapter is None:
        whole = subject.run.adapter_file
        return SideSource(
            unet=whole, sha256=sha256_of(whole / subject.base.family.network_part / WHOLE_NETWORK)
        )
    return SideSource(adapter=subject.adapter.adapter, sha256=subject.adapter.use.tensor_sha256)


def _controls(
    run: FinishedRun, base: Base, spec: EvaluationSpec, progress: ProgressFn
) -> tuple[dict[ControlName, SideSource], dict[ControlName, str]]:
    """The trained controls, and why each of the others is missing."""
    if spec.controls == "base" or not run.is_run:
        why = (
            "left out by --controls base"
            if run.is_run
            else "an adapter file does not say how to train another one"
        )
        return {}, {name: f"Control '{name}' was not trained: {why}." for name in CONTROLS}
    found: dict[ControlName, SideSource] = {}
    left_out: dict[ControlName, str] = {}
    for name in CONTROLS:
        try:
            file = train_control(run, name, progress=progress)
        except (DataError, ConfigError, TrainingDiverged) as error:
            left_out[name] = f"Control '{name}' was not trained: {error}"
            continue
        chosen = choose_adapter(str(file), base)
        found[name] = SideSource(adapter=chosen.adapter, sha256=chosen.use.tensor_sha256)
    return found, left_out


def _prompt_sets(material: EvaluationMaterial) -> dict[str, Sequence[str]]:
    sets: dict[str, Sequence[str]] = {"held_out": material.asked.prompts}
    for name, asked in zip(("unrelated", "unrelated_with_trigger"), material.unrelated, strict=False):
        sets[name] = asked.prompts
    return sets | ({"recited": material.recited} if material.recited else {})


def _judge_name(spec: EvaluationSpec, base: Base) -> str:
    from detour.evaluation.judge import judge_of

    name = spec.judge or judge_of(base.folder)
    if isinstance(name, Path):
        return f"{base.identity}'s own"
    return Path(name).name if Path(name).exists() else name


def _places_of(drawn: Drawn) -> dict[PromptSet, dict[Side, tuple[str, ...]]]:
    sets: tuple[PromptSet, ...] = ("held_out", "unrelated", "unrelated_with_trigger", "recited")
    return {
        name: {side: tuple(f"{FOLDER}/{file}" for file in files) for side, files in drawn.files[name].items()}
        for name in sets
        if name in drawn.files
    }
