"""Train an adapter and prove it: one folder in, one run folder out."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from detour.adapter_files import read_adapter
from detour.adapter_files.kohya import DORA_ELSEWHERE
from detour.adapter_files.reading import require_intact
from detour.adapters.adapter import Adapter
from detour.adapters.full import FullWeights
from detour.adapters.gradient_proof import hash_base
from detour.adapters.reference_weights import ReferenceWeights
from detour.bases.hardware import torch_dtype
from detour.bases.image_encoder import load_image_encoder
from detour.data.folder import Dataset
from detour.data.holdout import split_holdout
from detour.data.shuffled_captions import with_shuffled_captions
from detour.errors import ConfigError
from detour.evaluation.proof import Proof
from detour.evaluation.proof_pictures import proof_requests
from detour.files import remove_temporaries, write_json, write_text
from detour.specs import RunSpec, save_run_spec
from detour.training.checkpoints import kept_adapters
from detour.training.loss_scale import LossScale
from detour.training.material import Material, load_material
from detour.training.memory import memory_errors_explained
from detour.training.methods import reference_encoder
from detour.training.processes import Processes, joined, leave, share_of
from detour.training.recorded_pictures import remember_pictures, write_findings
from detour.training.resume import (
    SETTINGS,
    lacks_only_its_proof,
    read_settings,
    refuse_changed_class,
)
from detour.training.run_folder import claimed, locked, read_state
from detour.training.run_record import RunRecord
from detour.training.text_adapter import trains_text
from detour.verbs.judge.checkpoint_scores import evaluate_checkpoints
from detour.verbs.progress import Progress, ProgressFn, silent
from detour.verbs.train.class_pictures import draw_class_pictures
from detour.verbs.train.distilled_proof import prove_distilled
from detour.verbs.train.fitting import Trained, fit_run
from detour.verbs.train.peers import PeerSettings
from detour.verbs.train.reference_proof import prove_reference
from detour.verbs.train.run_plan import RunPlan, plan_resumed, plan_run
from detour.verbs.train.samples import keep_trained_pictures_of
from detour.verbs.train.saved_run import product_of, save_run_adapter

GRADIENTS = "gradients.json"


LIKE = "like.json"
"""File of a run folder: another trainer's settings that its own were made from, and what became of each."""


class TrainResult(BaseModel):
    """What a finished run left behind."""

    model_config = ConfigDict(frozen=True)

    name: str
    run_folder: Path
    adapter_file: Path
    """The folder of the whole base where its own weights were trained."""
    steps: int
    seconds: float
    """Seconds of the training alone, proof and pictures left out."""
    final_loss: float | None
    val_loss: float | None
    best_step: int | None
    """The step whose weights were chosen, by their loss or by their proof; ``None``: the last were shipped."""
    proof: Proof | None
    notes: tuple[str, ...]


def train_adapter(
    spec: RunSpec | None,
    *,
    runs: Path = Path("runs"),
    resume: Path | None = None,
    force: bool = False,
    prove: bool = True,
    like: PeerSettings | None = None,
    progress: ProgressFn = silent,
) -> TrainResult:
    """Train an adapter, save it, load it back and prove that it learned.

    Args:
        spec: the run; ``None`` with ``resume``, which keeps its settings.
        runs: folder of all runs; the new one is ``runs/<name>``, with a number when the name is taken.
        resume: folder of a run that was interrupted.
        force: delete the run that has the name, instead of taking a number.
        prove: leave the proof out with ``False``: a control is compared with, and claims nothing.
        like: another trainer's settings that ``spec`` was made from; kept in ``like.json`` with what became of each.
        progress: told of stages, steps and notes.

    Returns:
        Where things are and what was proved.

    Raises:
        DetourError: every foreseen failure, each with its own class and one line.
        Interrupted: Ctrl-C or SIGTERM; state and adapter so far are saved.
        TrainingDiverged: the last good weights are saved.
        ProcessLost: of several processes that a launcher started, another one ended.
    """
    if resume is not None:
        if spec is not None:
            raise ConfigError(f"--resume {resume}: a resumed run keeps its settings. Leave the others out.")
        return _resume(_existing(resume), progress, prove=prove)
    if spec is None:
        raise ConfigError("no settings: pass a run spec, or a run folder to resume.")
    plan = replace(plan_run(spec), like=like)
    with joined(plan.spec.base.device) as processes:
        share_of(processes, batch=plan.spec.train.batch, grad_accum=plan.spec.train.grad_accum)
        if not processes.first:
            folder = runs / processes.from_first("")
            return _follow(_named(plan, folder), folder, processes)
        with claimed(runs, plan.spec.name, force=force) as folder:
            processes.from_first(folder.name)
            return _run(_named(plan, folder), folder, progress, processes, prove=prove)


def _named(plan: RunPlan, folder: Path) -> RunPlan:
    return replace(plan, spec=plan.spec.model_copy(update={"name": folder.name}))


def _resume(folder: Path, progress: ProgressFn, *, prove: bool) -> TrainResult:
    with joined(str(read_settings(folder).base.device)) as processes:
        if not processes.first:
            trained = processes.from_first(False)  # the first one has the lock, and the folder is in order
            if trained:
                return _trained_before(folder)
            return _follow(plan_resumed(folder, processes=processes.count), folder, processes)
        with locked(folder):
            remove_temporaries(folder)
            trained = processes.from_first(lacks_only_its_proof(folder))
            if trained:
                leave()
                return _proved_at_last(folder, progress) if prove else _trained_before(folder)
            plan = plan_resumed(folder, processes=processes.count)
            return _run(plan, folder, progress, processes, prove=prove)


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise ConfigError(f"--resume {folder}: no such run. `detour runs` lists those that are there.")
    return folder


def _proved_at_last(folder: Path, progress: ProgressFn) -> TrainResult:
    """The proof of a run that was killed after its training."""
    note = "It was trained, and died while it was being proved: proving it."
    progress(Progress(stage="preparing", note=note))
    result = _trained_before(folder).model_copy(update={"notes": (note,)})
    if read_settings(folder).distill.steps:
        return _with_distilled_proof(result, plan_resumed(folder), progress)
    return result.model_copy(update={"proof": _prove(folder, progress)})


def _trained_before(folder: Path) -> TrainResult:
    """What the training left is in ``run.json``."""
    spec, state = read_settings(folder), read_state(folder)
    return TrainResult(
        name=spec.name,
        run_folder=folder,
        adapter_file=product_of(folder, spec),
        steps=int(state["step"]),
        seconds=float(state["seconds"]),
        final_loss=state.get("loss"),
        val_loss=state.get("val_loss"),
        best_step=state.get("best_step"),
        proof=None,
        notes=(),
    )


def _follow(plan: RunPlan, folder: Path, processes: Processes) -> TrainResult:
    """The run as a process that is not the first one: it trains on its share, and writes and proves nothing."""
    with memory_errors_explained(plan.spec, plan.base):
        processes.from_first(None)  # the class pictures are drawn
        plan = replace(plan, class_pictures=draw_class_pictures(plan.spec, plan.base))
        material, _ = load_run_material(plan, silent)
        trained = fit_run(plan, material, folder, None, silent, processes)
    return _result(plan, trained, folder, (), trained.validator.best_step)


def _run(
    plan: RunPlan, folder: Path, progress: ProgressFn, processes: Processes, *, prove: bool
) -> TrainResult:
    """All stages of a run; whatever ends it is in ``run.json``."""
    spec = plan.spec
    for note in plan.notes:
        progress(Progress(stage="preparing", note=note))
    record = RunRecord(folder, spec, plan.base.identity)
    with record.watched(), memory_errors_explained(spec, plan.base):
        if plan.checkpoint is None:
            save_run_spec(folder / SETTINGS, spec)
            remember_pictures(folder, plan.dataset, holdout=spec.data.holdout, seed=spec.seed)
            write_findings(folder, plan.findings)
            if plan.like is not None:
                write_text(folder / LIKE, plan.like.to_json() + "\n")
        plan = replace(plan, class_pictures=draw_class_pictures(spec, plan.base, progress=progress))
        processes.from_first(None)
        if plan.checkpoint is not None:
            refuse_changed_class(folder, plan.checkpoint, plan.class_pictures)
        material, notes = load_run_material(plan, progress)
        trained = fit_run(plan, material, folder, record, progress, processes)
        leave()  # what follows is the first one's alone
        if trained.state.enough:
            notes.append(_why_early(trained, spec))
            progress(Progress(stage="training", note=notes[-1]))
        if trained.state.scale is not None and trained.state.scale.repeated:
            notes.append(_what_overflowed(trained.state.scale))
            progress(Progress(stage="training", note=notes[-1]))
        record.check()
        adapter, best_step = ship_run(plan, trained, folder, progress)
        if spec.validate_.ship == "best_proof":
            notes.append(f"The weights of step {best_step} are shipped: they have the best proof.")
        if spec.adapter.method == "dora":
            notes.append(DORA_ELSEWHERE)
            progress(Progress(stage="training", note=notes[-1]))
        if prove and _has_general_proof(spec):
            keep_trained_pictures_of(
                folder, plan.base, spec, plan.captions, material.text, trained.denoiser, adapter, progress
            )
        facts = {
            "step": trained.state.step,
            "loss": trained.loss,
            "val_loss": trained.validator.latest,
            "best_step": best_step,
            "validation": trained.validator.facts()["validation"],
        }
        record.write("finished", {**facts, "seconds": trained.seconds})
    result = _result(plan, trained, folder, notes, best_step)
    del trained, material  # the proof loads a base of its own
    if not prove:
        return result
    if spec.adapter.method == "reference":
        encoder = reference_encoder(spec, plan.base)
        shown = prove_reference(folder, result.adapter_file, plan.base, spec, plan.dataset, encoder)
        return result.model_copy(update={"notes": (*result.notes, shown.words)})
    if spec.distill.steps:
        return _with_distilled_proof(result, plan, progress)
    return result.model_copy(update={"proof": _prove(folder, progress, plan.dataset)})


def _has_general_proof(spec: RunSpec) -> bool:
    """Whether the run's file is proved as any adapter is: not an IP-Adapter, and not one distilled for few steps."""
    return spec.adapter.method != "reference" and not spec.distill.steps


def _with_distilled_proof(result: TrainResult, plan: RunPlan, progress: ProgressFn) -> TrainResult:
    shown = prove_distilled(
        result.run_folder, result.adapter_file, plan.base, plan.spec, plan.captions, progress
    )
    progress(Progress(stage="drawing the proof", note=shown.words))
    return result.model_copy(update={"notes": (*result.notes, shown.words)})


def _result(
    plan: RunPlan, trained: Trained, folder: Path, notes: Iterable[str], best_step: int | None
) -> TrainResult:
    return TrainResult(
        name=plan.spec.name,
        run_folder=folder,
        adapter_file=product_of(folder, plan.spec),
        steps=trained.state.step,
        seconds=trained.seconds,
        final_loss=trained.loss,
        val_loss=trained.validator.latest,
        best_step=best_step,
        proof=None,
        notes=(*plan.notes, *notes),
    )


def load_run_material(plan: RunPlan, progress: ProgressFn) -> tuple[Material, list[str]]:
    """Encode what a run is shown; also sentences on what the user should know of it."""
    spec = plan.spec
    train, held_out = split_holdout(plan.dataset, spec.data.holdout, spec.seed)
    if spec.data.captions == "shuffled":
        train = with_shuffled_captions(train, spec.seed)
    drawn = [request.prompt for request in proof_requests(spec, plan.captions)]
    material = load_material(
        plan.base,
        train,
        held_out,
        spec=spec.data,
        device=spec.base.device,
        class_pictures=plan.class_pictures,
        class_weight=spec.prior.weight,
        trained_text_dtype=torch_dtype(spec.base.dtype) if trains_text(spec) else None,
        image_encoder=load_image_encoder(reference_encoder(spec, plan.base), device=spec.base.device)
        if spec.adapter.method == "reference"
        else None,
        other_prompts=("", *spec.sample.prompts, *drawn, *spec.evaluate.prompts),
        on_picture=lambda done, total: progress(Progress(stage="encoding pictures", done=done, total=total)),
    )
    notes = []
    if material.too_long:
        notes.append(
            f"{len(material.too_long)} captions or prompts are longer than the 75 tokens that the text encoder reads; "
            "it sees only their beginning, in training and in the proof. Put what matters first, "
            f"e.g. '{material.too_long[0][:60]}…'."
        )
    notes += material.notes
    for note in notes:
        progress(Progress(stage="encoding pictures", note=note))
    return material, notes


def _why_early(trained: Trained, spec: RunSpec) -> str:
    return (
        f"Stopped after step {trained.state.step} of {spec.train.steps}: no new lowest validation loss in "
        f"{spec.validate_.patience} validations."
    )


def _what_overflowed(scale: LossScale) -> str:
    return (
        f"A gradient overflowed in fp16 {scale.repeated} times; each time the step was made again with half the loss "
        f"scale, which is {scale.scale:g} now. No update was lost."
    )


def ship_run(
    plan: RunPlan, trained: Trained, folder: Path, progress: ProgressFn
) -> tuple[Adapter, int | None]:
    """Choose the weights, write the adapter and ``gradients.json``, and check that the base is what it was.

    Returns:
        What was written, and the step of weights that were chosen; ``None`` where the last are simply taken.
    """
    best, attached = trained.validator.best_values, trained.attached
    trained.state.flat.load(trained.state.shipped() if best is None else best)
    chosen = None if best is None else trained.validator.best_step
    if plan.spec.validate_.ship == "best_proof":
        with trained.denoiser.set_aside():
            chosen = evaluate_checkpoints(folder, dataset=plan.dataset, progress=progress).chosen_step
        kept = kept_adapters(folder)[chosen]
        require_intact(kept)
        attached.load(read_adapter(kept))
    save_run_adapter(plan, attached, folder, step=trained.state.step if chosen is None else chosen)
    unchanged = hash_base(trained.models, without=attached.changed_tensors) == trained.frozen_sha256
    write_json(folder / GRADIENTS, {**trained.gradients, "base_unchanged": unchanged})
    makes_none = isinstance(attached, FullWeights | ReferenceWeights)
    return Adapter({}) if makes_none else attached.to_adapter(), chosen


def _prove(folder: Path, progress: ProgressFn, dataset: Dataset | None = None) -> Proof:
    from detour.verbs.judge.proof_of_run import prove_run

    return prove_run(folder, dataset=dataset, progress=progress)
