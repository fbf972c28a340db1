"""Ten steps on one picture: does this installation learn at all?"""

import time
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from detour.adapters.attach import Attached
from detour.bases.base import Base, open_base
from detour.bases.denoiser import Denoiser
from detour.bases.hardware import pick_device, set_threads
from detour.bases.text import Conditioning
from detour.diffusion.process import Process
from detour.diffusion.randomness import noise_for
from detour.evaluation.pixels import mean_abs_diff
from detour.specs import PictureSpec
from detour.training.assembly import attach_trainable, choose_targets, load_denoiser, make_state
from detour.training.batches import Batch
from detour.training.cache import TrainingData
from detour.training.loop import StepReport, TrainState, fit
from detour.training.memory import memory_errors_explained
from detour.training.step import batch_loss
from detour.verbs.explain.example import open_example
from detour.verbs.explain.slow_step import single_picture_data, single_picture_spec
from detour.verbs.progress import Progress, ProgressFn, silent

TIMES = (0.15, 0.45, 0.75)
"""Shares of the schedule at which every step trains; with random ones ten steps show the luck of the draw."""

DRAWN_STEPS = 12
"""Denoising steps of the two pictures that are compared."""

MIN_PIXEL_DIFF = 0.5
"""Smallest mean difference that counts as an effect, as in the picture proof; in fp32 rounding stays far below."""


class OverfitResult(BaseModel):
    """What a few steps on one picture changed."""

    model_config = ConfigDict(frozen=True)

    base: str
    picture: str
    caption: str
    steps: int
    losses: tuple[float, ...]
    """Before each step and after the last, at the same timesteps with the same noise."""
    loss_before: float
    loss_after: float
    mean_abs_diff: float
    """Mean difference of the picture with and without the adapter at one prompt and seed, in steps of 255."""
    seconds: float
    learns: bool
    sentence: str
    why_a_floor: str

    def to_json(self) -> str:
        return self.model_dump_json(indent=2)


def overfit_one(
    *,
    picture: Path | None = None,
    caption: str | None = None,
    base: str = "pocket",
    revision: str | None = None,
    steps: int = 10,
    rank: int = 4,
    targets: str = "attn",
    lr: float = 2e-3,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "fp32",
    progress: ProgressFn = silent,
) -> OverfitResult:
    """Train a few steps on one picture at fixed noise and compare before with after.

    Args:
        picture: a file; without it the embedded base's world draws one in a style that the base never saw.
        caption: of the picture; without it the ``.txt`` beside it.
        base: as in training.
        revision: of a hub id.
        steps: of training.
        rank: of the adapter.
        targets: of the adapter.
        lr: constant, high on purpose.
        seed: of noise and adapter.
        device: as in training.
        dtype: of the frozen base.
        progress: told of every step.

    Raises:
        BaseError, DataError: the base or the picture cannot be read.
        TrainingDiverged: the loss is not finite.
    """
    begun = time.perf_counter()
    opened = open_base(base, revision=revision)
    opened.require_weights()
    set_threads("auto")
    spec = single_picture_spec(
        opened,
        rank=rank,
        targets=targets,
        lr=lr,
        seed=seed,
        device=pick_device(device),
        dtype=dtype,
        steps=steps,
    )
    flat_rate = spec.train.schedule.model_copy(update={"kind": "constant", "warmup": 0})
    spec = spec.model_copy(update={"train": spec.train.model_copy(update={"schedule": flat_rate})})
    example = open_example(picture, caption, size_px=spec.data.resolution, seed=seed)
    with memory_errors_explained(spec, opened):
        data = single_picture_data(opened, example, spec)
        denoiser = load_denoiser(opened, spec)
        attached = attach_trainable(denoiser, choose_targets(denoiser.network, opened, spec).layers, spec)
        batch = _fixed_batch(data, seed, denoiser.process)
        state, watcher = make_state(attached, spec), _Losses(steps, progress)
        fit(state, lambda _step, _micro: batch_loss(denoiser, batch), [watcher], steps=steps)
        with torch.no_grad():
            watcher.losses.append(float(batch_loss(denoiser, batch)))
        difference = _pixel_difference(opened, denoiser, attached, data, example.caption, seed, progress)
    return _result(opened.identity, example.name, example.caption, watcher.losses, difference, begun)


class _Losses:
    """Collects the losses and tells how far it is."""

    def __init__(self, steps: int, progress: ProgressFn) -> None:
        self.losses: list[float] = []
        self._steps, self._progress = steps, progress

    def on_step(self, _state: TrainState, report: StepReport) -> None:
        self.losses.append(report.loss)
        figures = {"loss": report.loss}
        self._progress(Progress(stage="overfitting", done=report.step, total=self._steps, figures=figures))


def _fixed_batch(data: TrainingData, seed: int, process: Process) -> Batch:
    """The picture at every one of :data:`TIMES`, with noise that stays."""
    num = len(TIMES)
    noise = torch.stack(
        [noise_for(seed, 0, i, data.latents.shape_of(0), purpose="overfit") for i in range(num)]
    )
    latents: Tensor = data.latents.moments(0, 0)[0].expand(num, -1, -1, -1)
    text: Conditioning = data.text.conditioning([data.captions[0]] * num)
    times = process.times([process.at(share) for share in TIMES])
    return Batch(latents, noise, times, text, pictures=(0,) * num)


def _pixel_difference(
    base: Base,
    denoiser: Denoiser,
    attached: Attached,
    data: TrainingData,
    caption: str,
    seed: int,
    progress: ProgressFn,
) -> float:
    from detour.generation.engine import PictureEngine, PictureRequest

    progress(Progress(stage="drawing with and without"))
    vae = base.load_vae(torch.float32, denoiser.device)
    engine = PictureEngine(
        base, unet=denoiser.network, vae=vae, text=data.text, device=denoiser.device, dtype=denoiser.dtype
    )
    requests = [PictureRequest(prompt=caption, seed=seed)]
    spec, side = PictureSpec(steps=DRAWN_STEPS), data.latents.shape_of(0)[-1] * base.latent_factor
    spec = spec.model_copy(update={"width_px": side, "height_px": side})
    with_adapter = engine.draw(requests, spec).pictures
    with attached.disabled():
        without = engine.draw(requests, spec).pictures
    return mean_abs_diff(with_adapter, without)


def _result(
    base: str, picture: str, caption: str, losses: list[float], difference: float, begun: float
) -> OverfitResult:
    before, after = losses[0], losses[-1]
    learns = after < before and difference > MIN_PIXEL_DIFF
    change = f"the loss at fixed noise went from {before:.4f} to {after:.4f} ({after / before - 1:+.0%})"
    moved = f"the picture moved by {difference:.2f} of 255 on average"
    sentence = (
        f"This installation learns: {change}, and {moved}."
        if learns
        else f"This installation does NOT learn: {change}, and {moved}. Try detour step to see where it stops."
    )
    return OverfitResult(
        base=base,
        picture=picture,
        caption=caption,
        steps=len(losses) - 1,
        losses=tuple(losses),
        loss_before=before,
        loss_after=after,
        mean_abs_diff=difference,
        seconds=round(time.perf_counter() - begun, 2),
        learns=learns,
        sentence=sentence,
        why_a_floor=(
            "That is a floor, not quality: a model can always learn one picture by heart, and a difference says only "
            "that the adapter is connected. Whether it learned what was meant, held-out prompts say: detour train."
        ),
    )
