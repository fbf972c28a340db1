"""One training step in slow motion: every tensor from the picture to the gradients, with its meaning."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from detour.adapters.attach import Attached
from detour.adapters.gradient_proof import hash_base
from detour.bases.base import Base, open_base
from detour.bases.denoiser import Denoiser
from detour.bases.families import network_title
from detour.bases.hardware import pick_device, set_threads
from detour.bases.latents import decode_latents, to_pixels
from detour.diffusion.objective import denoising_loss
from detour.diffusion.process import Process, RectifiedFlow
from detour.errors import ProofFailed
from detour.specs import AdapterSpec, BaseSpec, DataSpec, OptimSpec, RunSpec, TrainSpec
from detour.specs.resolved import ResolvedRun
from detour.training.assembly import attach_trainable, choose_targets, load_denoiser, make_loss, make_state
from detour.training.batches import Batch, draw_batch
from detour.training.cache import TrainingData, cache_latents, cache_text
from detour.training.loop import TrainState
from detour.training.resolving import resolve
from detour.verbs.explain.example import OneExample, open_example


class _Figures(BaseModel):
    model_config = ConfigDict(frozen=True)


class TensorNote(_Figures):
    """One tensor of the step."""

    name: str
    meaning: str
    shape: tuple[int, ...]
    dtype: str
    mean: float
    std: float
    norm: float


class GradientGroup(_Figures):
    """Gradients of the adapter layers of one block."""

    block: str
    layers: int
    down_grad_norm: float
    up_grad_norm: float
    up_change_norm: float
    """How far the update moved ``up``."""


class StepTrace(_Figures):
    """Everything that one step did."""

    base: str
    picture: str
    caption: str
    timestep: int | str
    """Integer timestep; the noise level of a flow."""
    signal_share: float
    """``√ᾱ``, or ``1 − σ`` of a flow: how much of the noisy latents is still the picture."""
    loss: float
    grad_norm: float
    tensors: tuple[TensorNote, ...]
    gradients: tuple[GradientGroup, ...]
    base_unchanged: bool
    base_sha256: str
    remarks: tuple[str, ...]
    pictures: Mapping[str, Any] = Field(default_factory=dict, exclude=True, repr=False)
    """uint8 arrays for :func:`detour.verbs.explain.step_figure.plot_step`; not part of the JSON."""

    def to_json(self) -> str:
        """Indented JSON without the pictures."""
        return self.model_dump_json(indent=2)


def step_once(
    *,
    base: str = "pocket",
    revision: str | None = None,
    picture: Path | None = None,
    caption: str | None = None,
    timestep: float | None = None,
    rank: int = 4,
    targets: str = "attn",
    lr: float = 1e-3,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "fp32",
) -> StepTrace:
    """Make one training step on one picture and write down every tensor on the way.

    Args:
        base: as in training.
        revision: of a hub id.
        picture: a file; without it the embedded base's world draws one.
        caption: of the picture; without it the ``.txt`` beside it.
        timestep: of the noise, 0 to 999, or the noise level of a flow, 0 to 1; without it the run's own choice for
            ``seed``.
        rank: of the adapter.
        targets: of the adapter.
        lr: of the update.
        seed: of noise, timestep and adapter.
        device: as in training.
        dtype: of the frozen base.

    Raises:
        ConfigError: the timestep is outside the schedule, or a setting is wrong.
        BaseError, DataError: the base or the picture cannot be read.
        ProofFailed: the step changed the base.
    """
    opened = open_base(base, revision=revision)
    opened.require_weights()
    set_threads("auto")
    spec = single_picture_spec(
        opened, rank=rank, targets=targets, lr=lr, seed=seed, device=pick_device(device), dtype=dtype
    )
    example = open_example(picture, caption, size_px=spec.data.resolution, seed=seed)
    data = single_picture_data(opened, example, spec)
    denoiser = load_denoiser(opened, spec)
    before = hash_base(denoiser.network)
    chosen = choose_targets(denoiser.network, opened, spec)
    attached = attach_trainable(denoiser, chosen.layers, spec)
    state = make_state(attached, spec)
    batch = _batch_at(
        draw_batch(make_loss(denoiser, data, spec).plan, data, 0, 0), timestep, denoiser.process
    )
    values, loss = _forward(denoiser, data, batch, example)
    gradients, grad_norm = _backward(loss, attached, state, spec.train.max_grad_norm)
    after = hash_base(denoiser.network)
    if after != before:
        raise ProofFailed("the step changed the frozen base. This is a bug of detour's: please report it.")
    notes = [_note(name, meaning, value) for name, (meaning, value) in values.items()]
    at = denoiser.process.name_of(float(batch.times[0]))
    share = denoiser.process.signal_share(float(batch.times[0]))
    return StepTrace(
        base=opened.identity,
        picture=example.name,
        caption=example.caption,
        timestep=at,
        signal_share=share,
        loss=loss.item(),
        grad_norm=grad_norm,
        tensors=tuple(notes),
        gradients=tuple(gradients),
        base_unchanged=True,
        base_sha256=after,
        remarks=_remarks(gradients, chosen.notes, at, share, denoiser),
        pictures=_pictures(opened, denoiser, example, values),
    )


def single_picture_spec(
    base: Base, *, rank: int, targets: str, lr: float, seed: int, device: str, dtype: str, steps: int = 1
) -> ResolvedRun:
    """Settings of a run on one picture: batch 1, constant rate, caption always there."""
    spec = RunSpec(
        name="one-picture",
        goal="subject",
        seed=seed,
        base=BaseSpec(name=base.name, device=device, dtype=dtype),  # type: ignore[arg-type]  # pydantic checks
        data=DataSpec(flip=False),
        adapter=AdapterSpec(rank=rank, targets=targets),
        train=TrainSpec(steps=steps, batch=1, optim=OptimSpec(lr=lr, weight_decay=0.0)),
    )
    return resolve(spec, base, ["x"], name="one-picture", device=device).spec


def single_picture_data(base: Base, example: OneExample, spec: ResolvedRun) -> TrainingData:
    """Encode one picture and its caption; VAE and text encoder are released."""
    device = spec.base.device
    latents = cache_latents(base.load_vae(torch.float32, device), [example.picture], flip=False)
    text = cache_text(base.load_text(torch.float32, device), [example.caption, ""])
    return TrainingData(latents, text, captions=(example.caption,), epoch=(0,))


def _batch_at(batch: Batch, timestep: float | None, process: Process) -> Batch:
    if timestep is None:
        return batch
    return replace(batch, times=process.times([process.check(timestep)]))


def _forward(
    denoiser: Denoiser, data: TrainingData, batch: Batch, example: OneExample
) -> tuple[dict[str, tuple[str, Tensor]], Tensor]:
    device = denoiser.device
    latents, noise = batch.latents.to(device), batch.noise.to(device)
    times, process = batch.times.to(device), denoiser.process
    noisy = process.mix(latents, noise, times)
    prediction = denoiser.predict(noisy, times, batch.text)
    wanted = process.target(latents, noise, times)
    loss = denoising_loss(prediction, wanted, torch.ones(1, device=device))
    named = {"noise": "the noise", "velocity": "the velocity", "clean": "the clean latents"}[process.predicts]
    if isinstance(process, RectifiedFlow):
        named = "the velocity, noise − latents"
    network = network_title(denoiser.kind)
    is_flow = isinstance(process, RectifiedFlow)
    values = {
        "pixels": ("the picture, from -1 to 1", to_pixels(example.picture[None])),
        "latent_mean": (
            "what the VAE makes of it: the middle of a distribution, scaled",
            data.latents.moments(0, 0)[0][None],
        ),
        "latent_std": ("the width of that distribution", data.latents.moments(0, 0)[1][None]),
        "latents": ("one draw: mean + std × ε₁, new at every step", latents),
        "timesteps": (
            "the noise level σ of this step, 0 to 1" if is_flow else "how noisy this step is, 0 to 999",
            times,
        ),
        "noise": ("ε₂, standard normal", noise),
        "noisy_latents": (
            "(1−σ) · latents + σ · noise" if is_flow else "√ᾱ · latents + √(1−ᾱ) · noise",
            noisy,
        ),
        "text_states": (
            f"the caption as the {network} reads it, {batch.text.states.shape[1]} tokens",
            batch.text.states,
        ),
        "prediction": (f"the {network}'s guess of {named}", prediction),
        "target": (f"{named}: what a perfect {network} would say", wanted),
        "loss": ("mean squared difference of the two", loss),
    }
    return values, loss


def _backward(
    loss: Tensor, attached: Attached, state: TrainState, max_grad_norm: float
) -> tuple[list[GradientGroup], float]:
    """Gradients by block, then one update."""
    loss.backward()
    grads = {key: (_copy(down.grad), _copy(up.grad)) for key, (down, up) in attached.factors.items()}
    grad_norm = float(state.flat.clip_grads(max_grad_norm))
    ups = {key: up.detach().clone() for key, (_, up) in attached.factors.items()}
    state.update()
    moved = {key: up.detach() - ups[key] for key, (_, up) in attached.factors.items()}
    blocks: dict[str, list[str]] = {}
    for key in sorted(grads, key=lambda key: _depth(_block_of(key))):
        blocks.setdefault(_block_of(key), []).append(key)
    groups = [
        GradientGroup(
            block=block,
            layers=len(keys),
            down_grad_norm=_joint_norm([grads[key][0] for key in keys]),
            up_grad_norm=_joint_norm([grads[key][1] for key in keys]),
            up_change_norm=_joint_norm([moved[key] for key in keys]),
        )
        for block, keys in blocks.items()
    ]
    return groups, grad_norm


def _copy(gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    return gradient.detach().clone()


def _block_of(key: str) -> str:
    """``unet.down_blocks.0.attentions.0…`` → ``down_blocks.0``; ``transformer.transformer_blocks.3…`` → its number."""
    parts = key.split(".")[1:]
    return ".".join(parts[:2]) if parts[0].endswith("_blocks") else parts[0]


def _depth(block: str) -> tuple[int, int]:
    """Order of the forward pass: down, middle, up; what belongs to none comes first."""
    kinds = (
        "conv_in", "down_blocks", "mid_block", "up_blocks", "conv_out", "transformer_blocks",
        "single_transformer_blocks",
    )  # fmt: skip
    place = next((place for place, kind in enumerate(kinds, start=1) if block.startswith(kind)), 0)
    number = block.rpartition(".")[2]
    return place, int(number) if number.isdigit() else 0


def _joint_norm(tensors: list[Tensor]) -> float:
    return float(
        torch.sqrt(sum((t.float().square().sum() for t in tensors), torch.zeros(()).to(tensors[0].device)))
    )


def _note(name: str, meaning: str, value: Tensor) -> TensorNote:
    numbers = value.detach().float()
    return TensorNote(
        name=name,
        meaning=meaning,
        shape=tuple(value.shape),
        dtype=str(value.dtype).removeprefix("torch."),
        mean=float(numbers.mean()),
        std=float(numbers.std(correction=0)),
        norm=float(numbers.norm()),
    )


def _remarks(
    groups: list[GradientGroup],
    target_notes: tuple[str, ...],
    timestep: int | str,
    signal_share: float,
    denoiser: Denoiser,
) -> tuple[str, ...]:
    time = "noise level" if isinstance(denoiser.process, RectifiedFlow) else "timestep"
    noisy = (
        f"At {time} {timestep} the {network_title(denoiser.kind)} sees "
        f"{signal_share:.0%} of the picture's amplitude under the noise."
    )
    if any(group.down_grad_norm for group in groups):
        start = "Both factors get a gradient."
    else:
        start = (
            "'down' gets no gradient in the first step: its gradient is multiplied by 'up', which starts at zero, so "
            "that the adapter starts as no change at all. 'up' gets one and moves; from the second step on both learn."
        )
    frozen = "The base's bytes are the same after the step as before: only the adapter moved."
    return (noisy, start, frozen, *target_notes)


def _pictures(
    base: Base,
    denoiser: Denoiser,
    example: OneExample,
    values: Mapping[str, tuple[str, Tensor]],
) -> dict[str, np.ndarray]:
    """What the step looks like, decoded: the picture, its noisy form, and what the UNet believes is under it."""
    vae = base.load_vae(torch.float32, denoiser.device)
    noisy, prediction = values["noisy_latents"][1].float(), values["prediction"][1].detach().float()
    clean = denoiser.process.clean(prediction, noisy, values["timesteps"][1])
    shown = {"latents": values["latents"][1], "noisy_latents": noisy, "guess": clean}
    decoded = {name: decode_latents(vae, latents)[0] for name, latents in shown.items()}
    shown_maps = ("latents", "target", "prediction")
    maps = {f"{name}_map": values[name][1].detach().float()[0].cpu().numpy() for name in shown_maps}
    return {"pixels": example.picture, **decoded, **maps}
