"""Train an adapter and prove it: one folder in, one run folder out."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from detour.adapter_files import kohya_metadata, write_adapter
from detour.adapters.adapter import Adapter
from detour.adapters.attach import Attached
from detour.adapters.gradient_proof import hash_base, prove_gradients
from detour.bases.base import Base, open_base
from detour.bases.hardware import pick_device, set_threads
from detour.data.folder import Dataset, read_dataset, split_holdout
from detour.errors import ConfigError, Interrupted, TrainingDiverged
from detour.evaluation.proof import Proof
from detour.evaluation.proof_pictures import proof_requests
from detour.files import write_json, write_text
from detour.recipes.draw_samples import SampleSheets, keep_trained_pictures_of
from detour.recipes.progress import Progress, ProgressFn, silent
from detour.specs import RunSpec, to_toml
from detour.training.assembly import attach_trainable, choose_targets, make_denoiser, make_loss, make_state
from detour.training.checkpoints import Checkpoint
from detour.training.loop import Observer, TrainState, fit
from detour.training.material import Material, load_material
from detour.training.memory import memory_errors_explained
from detour.training.observers import Checkpointer, MetricsLog, Pace, Sheets, Validator, restore
from detour.training.resolve import resolve
from detour.training.resume import (
    find_resume_point,
    fingerprints,
    refuse_changed_base,
    refuse_changed_data,
    remember_pictures,
)
from detour.training.run_folder import claimed, locked, name_from
from detour.training.run_record import RunRecord
from detour.training.step import Denoiser, repeatable_kernels
from detour.training.stopping import stop_wish
from detour.training.validation import fixed_validation

if TYPE_CHECKING:
    from detour.training.step import TrainingLoss

GRADIENTS = "gradients.json"


class TrainResult(BaseModel):
    """What a finished run left behind."""

    model_config = ConfigDict(frozen=True)

    name: str
    run_folder: Path
    adapter_file: Path
    steps: int
    seconds: float
    """Of the training alone, proof and pictures left out."""
    final_loss: float | None
    val_loss: float | None
    best_step: int | None
    """The step whose weights were shipped with ``keep_best``; ``None``: the last."""
    proof: Proof | None
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """A run that is ready to begin: everything resolved, everything checked, nothing written."""

    spec: RunSpec
    base: Base
    dataset: Dataset
    notes: tuple[str, ...]
    checkpoint: Checkpoint | None = None

    @property
    def captions(self) -> list[str]:
        return [example.caption for example in self.dataset.examples]


@dataclass
class _Trained:
    """What the loop leaves: the model with the adapter still beside it."""

    denoiser: Denoiser
    attached: Attached
    state: TrainState
    validator: Validator
    base_sha256: str
    gradients: dict[str, Any]
    loss: float | None
    seconds: float


def train_adapter(
    spec: RunSpec | None,
    *,
    runs: Path = Path("runs"),
    resume: Path | None = None,
    force: bool = False,
    progress: ProgressFn = silent,
) -> TrainResult:
    """Train an adapter, save it, load it back and prove that it learned.

    Args:
        spec: the run; ``None`` with ``resume``, which keeps its settings.
        runs: folder of all runs; the new one is ``runs/<name>``, with a number when the name is taken.
        resume: folder of a run that was interrupted.
        force: delete the run that has the name, instead of taking a number.
        progress: told of stages, steps and notes.

    Returns:
        Where things are and what was proved.

    Raises:
        DetourError: every foreseen failure, each with its own class and one line.
        Interrupted: Ctrl-C or SIGTERM; state and adapter so far are saved.
        TrainingDiverged: the last good weights are saved.
    """
    if resume is not None:
        if spec is not None:
            raise ConfigError(f"--resume {resume}: a resumed run keeps its settings. Leave the others out.")
        with locked(_existing(resume)):
            return _run(_resumed(resume), resume, progress)
    if spec is None:
        raise ConfigError("no settings: pass a run spec, or a run folder to resume.")
    plan = _planned(spec)
    with claimed(runs, plan.spec.name, force=force) as folder:
        named = plan.spec.model_copy(update={"name": folder.name})
        return _run(
            _Plan(spec=named, base=plan.base, dataset=plan.dataset, notes=plan.notes), folder, progress
        )


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise ConfigError(f"--resume {folder}: no such run. `detour runs` lists those that are there.")
    return folder


def _planned(spec: RunSpec) -> _Plan:
    base, dataset = _opened(spec)
    device = pick_device(spec.base.device)
    set_threads(spec.train.threads)
    resolved = resolve(
        spec,
        base,
        [example.caption for example in dataset.examples],
        name=name_from(spec.data.source),
        device=device,
    )
    targets = choose_targets(base.meta_unet(), base, resolved.spec)
    return _Plan(
        spec=resolved.spec,
        base=base,
        dataset=dataset,
        notes=(*dataset.problems, *resolved.notes, *targets.notes),
    )


def _resumed(folder: Path) -> _Plan:
    point = find_resume_point(folder)
    base, dataset = _opened(point.spec)
    refuse_changed_data(folder, point.checkpoint, dataset)
    pick_device(point.spec.base.device)
    set_threads(point.spec.train.threads)
    note = f"Going on after step {point.checkpoint.step} of {point.spec.train.steps}."
    return _Plan(
        spec=point.spec, base=base, dataset=dataset, notes=(*point.notes, note), checkpoint=point.checkpoint
    )


def _opened(spec: RunSpec) -> tuple[Base, Dataset]:
    base = open_base(spec.base.name, revision=spec.base.revision)
    base.require_weights()
    return base, read_dataset(spec.data)


def _run(plan: _Plan, folder: Path, progress: ProgressFn) -> TrainResult:
    """All stages of a run; whatever ends it is in ``run.json``."""
    spec = plan.spec
    for note in plan.notes:
        progress(Progress(stage="preparing", note=note))
    record = RunRecord(folder, spec, plan.base.identity)
    with record.watched(), memory_errors_explained(spec.train):
        if plan.checkpoint is None:
            write_text(folder / "resolved.toml", to_toml(spec))
            remember_pictures(folder, plan.dataset)
        material, notes = _load_material(plan, progress)
        trained = _fit(plan, material, folder, record, progress)
        adapter = _ship(plan, trained, folder)
        keep_trained_pictures_of(
            folder, plan.base, spec, plan.captions, material.text, trained.denoiser, adapter, progress
        )
        facts = {"val_loss": trained.validator.latest, "best_step": trained.validator.best_step}
        record.write("finished", {**facts, "seconds": trained.seconds})
    result = TrainResult(
        name=spec.name,
        run_folder=folder,
        adapter_file=folder / f"{spec.name}.safetensors",
        steps=trained.state.step,
        seconds=trained.seconds,
        final_loss=trained.loss,
        val_loss=trained.validator.latest,
        best_step=trained.validator.best_step,
        proof=None,
        notes=(*plan.notes, *notes),
    )
    del trained, material  # the proof loads a base of its own
    return result.model_copy(update={"proof": _prove(folder, progress)})


def _load_material(plan: _Plan, progress: ProgressFn) -> tuple[Material, list[str]]:
    spec = plan.spec
    train, held_out = split_holdout(plan.dataset, float(spec.data.holdout), spec.seed)
    drawn = [request.prompt for request in proof_requests(spec, plan.captions)]
    material = load_material(
        plan.base,
        train,
        held_out,
        size_px=int(spec.data.resolution),
        flip=spec.data.flip,
        device=str(spec.base.device),
        max_megapixels=spec.data.max_megapixels,
        other_prompts=("", *spec.sample.prompts, *drawn),
        on_picture=lambda done, total: progress(Progress(stage="encoding pictures", done=done, total=total)),
    )
    notes = []
    if material.too_long:
        notes.append(
            f"{len(material.too_long)} captions are longer than 77 tokens; the text encoder sees only their beginning, "
            f"e.g. '{material.too_long[0][:60]}…'."
        )
    for note in notes:
        progress(Progress(stage="encoding pictures", note=note))
    return material, notes


def _fit(plan: _Plan, material: Material, folder: Path, record: RunRecord, progress: ProgressFn) -> _Trained:
    """Attach, prove the gradients, and run the loop with its observers."""
    spec = plan.spec
    denoiser = make_denoiser(plan.base, spec)
    base_sha256 = hash_base(denoiser.unet)
    if plan.checkpoint is not None:
        refuse_changed_base(folder, plan.checkpoint, base_sha256)
    targets = choose_targets(denoiser.unet, plan.base, spec)
    attached = attach_trainable(denoiser, targets.layers, spec)
    loss_fn = make_loss(denoiser, material.train, spec)
    gradients = _proved_gradients(denoiser, attached, loss_fn, targets.dead, progress)
    state = make_state(attached, spec)
    if plan.checkpoint is not None:
        restore(state, plan.checkpoint)
    with stop_wish() as wish, contextlib.closing(MetricsLog(folder, first_step=state.step)) as log:
        validator = _validator(plan, material, denoiser, log)
        sheets = SampleSheets(folder, plan.base, spec, denoiser, material.text)
        checkpointer = Checkpointer(
            folder,
            every=int(spec.checkpoint.every),
            keep=spec.checkpoint.keep,
            steps=int(spec.train.steps),
            wish=wish,
            log=log,
            validator=validator,
            facts=fingerprints(spec, plan.dataset, base_sha256),
        )
        pace = Pace(
            _teller(spec, progress), first_step=state.step, steps=int(spec.train.steps), validator=validator
        )
        watching: list[Observer] = [
            log,
            validator,
            Sheets(lambda step: _draw_sheet(sheets, step, progress), every=int(spec.sample.every)),
            record,
            pace,
            checkpointer,
        ]
        with (
            repeatable_kernels(denoiser.device),
            _saved_when_stopped(plan, attached, state, checkpointer, folder),
        ):
            if plan.checkpoint is None and validator.every:
                validator.validate(state)
            fit(
                state,
                loss_fn,
                watching,
                steps=int(spec.train.steps),
                grad_accum=spec.train.grad_accum,
                max_grad_norm=spec.train.max_grad_norm,
            )
        return _Trained(
            denoiser, attached, state, validator, base_sha256, gradients, log.last_loss, round(log.seconds, 2)
        )


def _proved_gradients(
    denoiser: Denoiser,
    attached: Attached,
    loss_fn: "TrainingLoss",
    dead: tuple[str, ...],
    progress: ProgressFn,
) -> dict[str, Any]:
    """The gradient proof, on at most two samples with their captions.

    Raises:
        GradientProofFailed: a layer gets no gradient, or a base tensor gets one.
    """
    progress(Progress(stage="proving gradients"))
    plan = loss_fn.plan
    probe = replace(loss_fn, plan=replace(plan, batch=min(2, plan.batch), caption_dropout=0.0), dropout=False)
    report = prove_gradients(denoiser.unet, attached, lambda: probe(0, 0))
    return {
        "adapter_tensors": report.adapter_tensors,
        "adapter_tensors_with_gradient": report.adapter_tensors_with_gradient,
        "dead_by_structure": sorted({*dead, *report.dead_by_structure}),
        "base_tensors_with_gradient": report.base_tensors_with_gradient,
    }


def _validator(plan: _Plan, material: Material, denoiser: Denoiser, log: MetricsLog) -> Validator:
    spec = plan.spec
    if material.held_out is None:
        return Validator(log, lambda: float("nan"), every=0, keep_best=False)
    fixed = fixed_validation(
        material.held_out,
        seed=spec.seed,
        batch=int(spec.train.batch),
        num_timesteps=spec.validate_.num_timesteps,
        schedule_length=len(denoiser.alphas),
    )
    validator = Validator(
        log,
        lambda: fixed.loss(denoiser),
        every=int(spec.validate_.every),
        keep_best=spec.validate_.keep_best,
    )
    if plan.checkpoint is not None:
        validator.load(plan.checkpoint.facts, plan.checkpoint.tensors)
    return validator


def _teller(spec: RunSpec, progress: ProgressFn) -> Callable[[int, float, Mapping[str, float]], None]:
    def tell(step: int, seconds_left: float, figures: Mapping[str, float]) -> None:
        total = int(spec.train.steps)
        progress(
            Progress(stage="training", done=step, total=total, seconds_left=seconds_left, figures=figures)
        )

    return tell


def _draw_sheet(sheets: SampleSheets, step: int, progress: ProgressFn) -> None:
    folder = sheets.draw(step)
    progress(Progress(stage="training", note=f"Sample pictures of step {step}: {folder}"))


@contextlib.contextmanager
def _saved_when_stopped(
    plan: _Plan, attached: Attached, state: TrainState, checkpointer: Checkpointer, folder: Path
) -> Iterator[None]:
    """Whatever stops the loop in a foreseen way leaves an adapter file and says how to go on."""
    try:
        yield
    except Interrupted as error:
        _save(plan, attached, folder)
        raise Interrupted(f"{error} Go on with: detour train --resume {folder}") from error
    except TrainingDiverged as error:
        checkpointer.save(state)
        file = _save(plan, attached, folder)
        lr = plan.spec.train.optim.lr
        raise TrainingDiverged(
            f"{error} The weights after step {state.step} are saved in {file}. "
            f"Start again with a lower rate (--lr, now {lr:g}) or --dtype fp32."
        ) from error


def _save(plan: _Plan, attached: Attached, folder: Path) -> Path:
    """Write the adapter with all that its file says about itself; same settings and weights, same bytes."""
    path = folder / f"{plan.spec.name}.safetensors"
    spec, base = plan.spec, plan.base
    plain = attached.to_adapter()
    metadata = kohya_metadata(
        plain,
        family=base.family,
        identity=base.identity,
        title=str(spec.name),
        resolution_px=int(spec.data.resolution),
        run=spec,
        tags=plan.dataset.tags if spec.data.tag_table else None,
        num_examples=len(plan.dataset),
        prediction_type=str(base.scheduler_config().get("prediction_type", "epsilon")),
    )
    write_adapter(
        path, replace(plain, metadata=metadata), file_format="kohya", family=base.family, dtype="fp32"
    )
    return path


def _ship(plan: _Plan, trained: _Trained, folder: Path) -> Adapter:
    """Choose the weights, write the adapter, and check that the base is what it was."""
    if trained.validator.best_values is not None:
        trained.state.flat.load(trained.validator.best_values)
    _save(plan, trained.attached, folder)
    unchanged = hash_base(trained.denoiser.unet) == trained.base_sha256
    write_json(folder / GRADIENTS, {**trained.gradients, "base_unchanged": unchanged})
    return trained.attached.to_adapter()


def _prove(folder: Path, progress: ProgressFn) -> Proof:
    from detour.recipes.prove_run import prove_run

    return prove_run(folder, progress=progress)
