"""The part of a run in which weights change: attach, prove the gradients, run the loop with its observers."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from detour.adapters.attach import Attached
from detour.adapters.gradient_proof import hash_base, prove_gradients
from detour.adapters.reference_weights import ReferenceWeights
from detour.bases.denoiser import Denoiser
from detour.bases.quantize import Quantized
from detour.errors import Interrupted, ProcessLost, TrainingDiverged
from detour.evaluation.settings import public_settings
from detour.specs.resolved import ResolvedRun
from detour.training.assembly import (
    attach_trainable,
    choose_targets,
    load_denoiser,
    make_loss,
    make_state,
)
from detour.training.first_weights import load_first_weights
from detour.training.loop import Observer, TrainState, fit
from detour.training.material import Material
from detour.training.observers import Checkpointer, MetricsLog, NoLog, Pace, Sheets, Validator, restore
from detour.training.optimizers import smaller_steps
from detour.training.processes import ALONE, Processes, share_of
from detour.training.resume import fingerprints, refuse_changed_base, refuse_changed_references
from detour.training.run_record import FolderCheck, RunRecord
from detour.training.step import repeatable_kernels
from detour.training.stopping import stop_request
from detour.training.text_adapter import attach_text, choose_text_targets, models_together
from detour.training.tracking import Tracking, open_tracker
from detour.training.trained_text import TrainedText
from detour.training.validation import fixed_validation
from detour.training.words import new_vectors, steps_with_words
from detour.verbs.progress import Progress, ProgressFn
from detour.verbs.train.run_plan import RunPlan
from detour.verbs.train.samples import SampleSheets
from detour.verbs.train.saved_run import keep_adapter_of, save_run_adapter

if TYPE_CHECKING:
    from detour.training.step import TrainingLoss


PROOF_SCALE = 2.0**10
"""By which the loss of the gradient proof is multiplied in fp16, where small gradients would be zero."""


@dataclass
class Trained:
    """What the loop leaves: the models with the adapter still beside them, and the hash of what must be as before."""

    denoiser: Denoiser
    models: nn.Module
    attached: Attached
    state: TrainState
    validator: Validator
    frozen_sha256: str
    gradients: dict[str, Any]
    loss: float | None
    seconds: float


def fit_run(
    plan: RunPlan,
    material: Material,
    folder: Path,
    record: RunRecord | None,
    progress: ProgressFn,
    processes: Processes = ALONE,
) -> Trained:
    """Attach, prove the gradients, and run the loop with its observers until the last step.

    Args:
        plan: of the run.
        material: what is shown.
        folder: of the run.
        record: of the first process; the others have none.
        progress: told of steps.
        processes: those that share the run's steps.

    Raises:
        GradientProofFailed: a layer of the adapter cannot learn, or a tensor of the base would.
        Interrupted, TrainingDiverged: what was learned is saved, and the message says how to go on.
        ProcessLost: of several processes another one ended; the message says how to go on.
    """
    spec = plan.spec
    share = share_of(processes, batch=spec.train.batch, grad_accum=spec.train.grad_accum)
    denoiser = load_denoiser(plan.base, spec)
    if denoiser.quantized is not None:
        progress(Progress(stage="preparing", note=_what_was_quantised(denoiser.quantized, spec)))
    encoders = material.text.stage.models if isinstance(material.text, TrainedText) else {}
    models = models_together({denoiser.part: denoiser.network, **encoders})
    base_sha256 = hash_base(models)
    if plan.checkpoint is not None:
        refuse_changed_base(folder, plan.checkpoint, base_sha256)
    targets = choose_targets(denoiser.network, plan.base, spec)
    text_targets = choose_text_targets(plan.base, spec)
    shown = material.train.shown
    attached = attach_trainable(
        denoiser, targets.layers, spec, embedding_width=None if shown is None else shown.shape[1]
    )
    if isinstance(attached, ReferenceWeights):
        denoiser = replace(denoiser, references=attached)
    shown_sha256 = "" if shown is None else hashlib.sha256(shown.numpy().tobytes()).hexdigest()
    if shown_sha256 and plan.checkpoint is not None:
        refuse_changed_references(folder, plan.checkpoint, shown_sha256)
    attached = attached.joined(*attach_text(encoders, text_targets, spec))
    if isinstance(material.text, TrainedText):
        attached.words = new_vectors(material.text.stage, spec.adapter.tokens)
        material.text.stage.words = attached.words
    if plan.checkpoint is None:
        load_first_weights(attached, spec)
    loss_fn = make_loss(denoiser, material.train, spec, share, attached=attached)
    changed = attached.changed_tensors
    frozen_sha256 = hash_base(models, without=changed) if changed else base_sha256
    gradients = _proved_gradients(models, attached, loss_fn, (*targets.dead, *text_targets.dead), progress)
    state = make_state(attached, spec)
    if plan.checkpoint is not None:
        restore(state, plan.checkpoint)
    with (
        stop_request() as stop,
        contextlib.closing(_log(plan, folder, processes)) as log,
        contextlib.ExitStack() as stack,
    ):
        for note in log.notes:
            progress(Progress(stage="preparing", note=note))
        validator = _validator(plan, material, denoiser, log, processes)
        sheets = SampleSheets(folder, plan.base, spec, denoiser, material.text)
        checkpointer = Checkpointer(
            folder,
            every=spec.checkpoint.every,
            keep=spec.checkpoint.keep,
            steps=spec.train.steps,
            stop=stop,
            log=log,
            validator=validator,
            facts={
                **fingerprints(
                    spec, plan.dataset, base_sha256, plan.class_pictures, processes=processes.count
                ),
                **({"shown": shown_sha256} if shown_sha256 else {}),
            },
            processes=processes,
            keep_adapter=None
            if spec.adapter.method == "full"
            else lambda step: keep_adapter_of(plan, attached, folder, step=step),
        )
        pace = Pace(
            _teller(spec, progress), first_step=state.step, steps=spec.train.steps, validator=validator
        )
        tracking = stack.enter_context(
            contextlib.closing(_tracking(plan, folder, validator, processes, progress))
        )
        drawing = Sheets(lambda step: _draw_sheet(sheets, step, tracking, progress), every=spec.sample.every)
        of_first: list[Observer] = [] if record is None else [tracking, drawing, record, pace]
        guard: list[Observer] = [] if record is None else [FolderCheck(record)]
        watching: list[Observer] = [*guard, log, validator, *of_first, checkpointer]
        state.enough = validator.enough
        with (
            repeatable_kernels(denoiser.device),
            _saved_when_stopped(plan, attached, state, checkpointer, folder, processes),
        ):
            if plan.checkpoint is None and validator.every:
                validator.validate(state)
                tracking.validated(state.step)
            fit(
                state,
                loss_fn,
                watching,
                steps=spec.train.steps,
                grad_accum=spec.train.grad_accum,
                max_grad_norm=spec.train.max_grad_norm,
                share=share,
            )
        return Trained(
            denoiser,
            models,
            attached,
            state,
            validator,
            frozen_sha256,
            gradients,
            log.last_loss,
            round(log.seconds, 2),
        )


def _what_was_quantised(done: Quantized, spec: ResolvedRun) -> str:
    before, after = done.bytes_before / 2**20, done.bytes_after / 2**20
    return (
        f"{done.layers} linear layers of the base are kept in {spec.base.quantize}: {before:.0f} → {after:.0f} MiB. "
        "The proof draws with the base as it is."
    )


def _proved_gradients(
    models: nn.Module,
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
    samples = replace(plan, batch=min(2, plan.batch), caption_dropout=0.0, slice=0, slices=1)
    probe = replace(loss_fn, plan=samples, dropout=False)
    scale = PROOF_SCALE if loss_fn.denoiser.dtype == torch.float16 else 1.0
    steps = steps_with_words(probe.plan, probe.data, list(attached.words))
    report = prove_gradients(
        models, attached, lambda: torch.stack([probe(step, 0) for step in steps]).sum() * scale
    )
    return {
        "adapter_tensors": report.adapter_tensors,
        "adapter_tensors_with_gradient": report.adapter_tensors_with_gradient,
        "dead_by_structure": sorted({*dead, *report.dead_by_structure}),
        "base_tensors_with_gradient": report.base_tensors_with_gradient,
    }


def _log(plan: RunPlan, folder: Path, processes: Processes) -> MetricsLog:
    if not processes.first:
        return NoLog()
    return MetricsLog(folder, resumed_at=plan.checkpoint.step if plan.checkpoint is not None else None)


def _validator(
    plan: RunPlan, material: Material, denoiser: Denoiser, log: MetricsLog, processes: Processes
) -> Validator:
    spec = plan.spec
    if material.held_out is None:
        return Validator(log, lambda: float("nan"), every=0)
    fixed = fixed_validation(
        material.held_out,
        seed=spec.seed,
        batch=spec.train.batch,
        num_timesteps=spec.validate_.num_timesteps,
        process=denoiser.process,
    )
    validator = Validator(
        log,
        lambda: processes.from_first(fixed.loss(denoiser) if processes.first else 0.0),
        every=spec.validate_.every,
        keep_best=spec.validate_.ship == "lowest_loss",
        patience=spec.validate_.patience,
    )
    if plan.checkpoint is not None:
        validator.load(plan.checkpoint.facts, plan.checkpoint.tensors)
    return validator


def _teller(spec: ResolvedRun, progress: ProgressFn) -> Callable[[int, float, Mapping[str, float]], None]:
    def tell(step: int, seconds_left: float, figures: Mapping[str, float]) -> None:
        total = spec.train.steps
        progress(
            Progress(stage="training", done=step, total=total, seconds_left=seconds_left, figures=figures)
        )

    return tell


def _tracking(
    plan: RunPlan, folder: Path, validator: Validator, processes: Processes, progress: ProgressFn
) -> Tracking:
    settings = public_settings(plan.spec, base_identity=plan.base.identity).model_dump(
        mode="json", by_alias=True
    )
    tracker = open_tracker(
        plan.spec.track if processes.first else "none",
        folder,
        settings=settings,
        resumed_at=plan.checkpoint.step if plan.checkpoint is not None else None,
    )
    return Tracking(
        tracker,
        val_loss=validator.loss_at,
        tell=lambda note: progress(Progress(stage="training", note=note)),
    )


def _draw_sheet(sheets: SampleSheets, step: int, tracking: Tracking, progress: ProgressFn) -> None:
    folder = sheets.draw(step)
    tracking.drew(step, folder)
    progress(Progress(stage="training", note=f"Sample pictures of step {step}: {folder}"))


@contextlib.contextmanager
def _saved_when_stopped(
    plan: RunPlan,
    attached: Attached,
    state: TrainState,
    checkpointer: Checkpointer,
    folder: Path,
    processes: Processes,
) -> Iterator[None]:
    """Whatever stops the loop in a foreseen way leaves an adapter file and says how to go on."""
    try:
        yield
    except ProcessLost as error:
        raise ProcessLost(f"{error} Go on with: detour train --resume {folder}") from error
    except Interrupted as error:
        if processes.first:
            with state.as_shipped():
                save_run_adapter(plan, attached, folder)
        raise type(error)(f"{error} Go on with: detour train --resume {folder}") from error
    except TrainingDiverged as error:
        checkpointer.save(state)
        if not processes.first:
            raise
        with state.as_shipped():
            file = save_run_adapter(plan, attached, folder)
        optim = plan.spec.train.optim
        lower = smaller_steps(optim.name, lr=float(optim.lr), d0=optim.d0)
        raise TrainingDiverged(
            f"{error} The weights after step {state.step} are saved in {file}. "
            f"Start again with a lower rate ({lower}) or --dtype fp32."
        ) from error
