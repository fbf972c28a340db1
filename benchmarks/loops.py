"""Ways to make one training step, written so that they do the same work on the same batch.

``official`` does what the text-to-image LoRA script of diffusers does: VAE and text encoder inside the step, PEFT,
AdamW over one tensor for each factor, clipping over the same list. ``peft`` keeps PEFT and the per-tensor optimizer
but takes latents and text from caches. ``detour`` is this package's own step. ``full`` trains every weight of the
UNet, with caches. ``forward`` is the plain UNet's forward pass, the yardstick.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.shapes import Shape
from detour.adapters.attach import Attached, attach_new
from detour.adapters.fused import use_fused
from detour.adapters.targets import adaptable_layers, select
from detour.bases.denoiser import Denoiser
from detour.bases.text import Conditioning
from detour.diffusion.process import VariancePreserving
from detour.diffusion.schedule import add_noise
from detour.specs import OptimSpec
from detour.training.attention import use_training_attention
from detour.training.batches import BatchPlan
from detour.training.cache import LatentCache, TextCache, TrainingData
from detour.training.flat import FlatParameters, ParameterGroup
from detour.training.frozen import use_frozen_paths
from detour.training.loop import TrainState, accumulate
from detour.training.optim import FlatAdamW
from detour.training.step import TrainingLoss

LEARNING_RATE = 1e-4
Step = Callable[[int], float | None]
"""Function that makes step number ``index``; it returns seconds where only a part of the step counts."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Base, pictures and adapter that every variant trains."""

    shape: Shape
    rank: int
    targets: str
    dtype: torch.dtype

    @property
    def batch(self) -> int:
        return self.shape.batch

    def rows(self, index: int) -> list[int]:
        return [(index * self.batch + k) % len(self.shape.pixels) for k in range(self.batch)]

    def autocast(self) -> torch.autocast:
        return torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32)


@dataclass(frozen=True)
class Caches:
    """Latents and text states of every picture, made once in float32."""

    means: Tensor
    stds: Tensor
    states: Tensor

    def data(self) -> TrainingData:
        names = tuple(str(place) for place in range(len(self.means)))
        text = TextCache(Conditioning(self.states), {name: place for place, name in enumerate(names)})
        return TrainingData(
            LatentCache(self.means[None], self.stds[None]),
            text,
            captions=names,
            epoch=tuple(range(len(names))),
        )


@torch.no_grad()
def make_caches(shape: Shape) -> Caches:
    vae, text = shape.vae(torch.float32), shape.text(torch.float32)
    drawn = [vae.encode(picture[None]).latent_dist for picture in shape.pixels]
    factor = vae.config.scaling_factor
    return Caches(
        torch.cat([d.mean for d in drawn]) * factor,
        torch.cat([d.std for d in drawn]) * factor,
        torch.cat([text([place]) for place in range(len(shape.pixels))]),
    )


def official(setting: Setting, _: Caches) -> Step:
    """The loop of the official script."""
    vae, text = setting.shape.vae(setting.dtype), setting.shape.text(setting.dtype)
    unet, parameters = with_peft(setting)
    step = _separate_step(setting, unet, parameters)

    def run(index: int) -> None:
        rows = setting.rows(index)
        with torch.no_grad():
            pixels = setting.shape.pixels[rows].to(setting.dtype)
            latents = vae.encode(pixels).latent_dist.sample() * vae.config.scaling_factor
            states = text(rows)
        step(latents, states)

    return run


def peft(setting: Setting, caches: Caches) -> Step:
    """PEFT with caches and the per-tensor optimizer."""
    unet, parameters = with_peft(setting)
    return _cached(setting, caches, _separate_step(setting, unet, parameters))


def full(setting: Setting, caches: Caches) -> Step:
    """Every weight of the UNet, in its own dtype, with caches and the per-tensor optimizer."""
    unet = setting.shape.unet(setting.dtype).requires_grad_(True)
    return _cached(setting, caches, _separate_step(setting, unet, list(unet.parameters())))


def detour(setting: Setting, caches: Caches) -> Step:
    """This package's step."""
    unet, attached = with_detour(setting)
    state = make_state(attached.parameters())
    loss_fn = TrainingLoss(
        denoiser=denoiser(setting, unet), plan=BatchPlan(seed=0, batch=setting.batch), data=caches.data()
    )
    return lambda _: _own_step(state, loss_fn)


def around_the_unet(setting: Setting, caches: Caches) -> Step:
    """``detour`` with a UNet that does nothing: what a step costs besides the UNet, optimizer included."""
    _, attached = with_detour(setting)
    state = make_state(attached.parameters())
    loss_fn = TrainingLoss(
        denoiser=denoiser(setting, _Nothing(attached.parameters()[0])),
        plan=BatchPlan(seed=0, batch=setting.batch),
        data=caches.data(),
    )
    return lambda _: _own_step(state, loss_fn)


def forward(setting: Setting, caches: Caches) -> Step:
    """The plain UNet's forward pass without gradients."""
    unet = setting.shape.unet(setting.dtype)

    @torch.no_grad()
    def run(index: int) -> None:
        rows = setting.rows(index)
        timesteps = torch.randint(0, len(setting.shape.alphas), (setting.batch,))
        states = caches.states[rows].to(setting.dtype)
        unet(caches.means[rows].to(setting.dtype), timesteps, encoder_hidden_states=states)

    return run


def with_peft(setting: Setting) -> tuple[Any, list[nn.Parameter]]:
    """The UNet with PEFT's layers and their float32 factors."""
    from peft import LoraConfig, inject_adapter_in_model

    unet = setting.shape.unet(setting.dtype)
    names = [layer.path for layer in select(adaptable_layers(unet), setting.targets)]
    config = LoraConfig(r=setting.rank, lora_alpha=setting.rank, target_modules=names)
    inject_adapter_in_model(config, unet)
    parameters = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.data = parameter.data.float()
    return unet, parameters


def with_detour(setting: Setting) -> tuple[Any, Attached]:
    """The UNet as a run trains it (:func:`detour.training.assembly.attach_trainable`)."""
    unet = setting.shape.unet(setting.dtype)
    use_training_attention(unet, device="cpu", dtype=setting.dtype)
    layers = select(adaptable_layers(unet), setting.targets)
    attached = attach_new(unet, "unet", layers, rank=setting.rank, alpha=float(setting.rank))
    use_fused(attached)
    use_frozen_paths(unet)
    return unet, attached


def denoiser(setting: Setting, unet: nn.Module) -> Denoiser:
    process = VariancePreserving(predicts="noise", alphas=setting.shape.alphas)
    return Denoiser(
        network=unet,
        part="unet",
        kind="UNet2DConditionModel",
        process=process,
        device="cpu",
        dtype=setting.dtype,
        autocast=True,
    )


def make_state(parameters: list[nn.Parameter]) -> TrainState:
    flat = FlatParameters([ParameterGroup("unet", tuple(parameters))])
    return TrainState(flat, FlatAdamW(flat, OptimSpec()), rate=lambda _: LEARNING_RATE)


def _own_step(state: TrainState, loss_fn: TrainingLoss) -> None:
    accumulate(loss_fn, state.step, 1)
    state.flat.clip_grads(1.0)
    state.update()


def _cached(setting: Setting, caches: Caches, step: Callable[[Tensor, Tensor], None]) -> Step:
    def run(index: int) -> None:
        rows = setting.rows(index)
        drawn = caches.means[rows] + caches.stds[rows] * torch.randn_like(caches.stds[rows])
        step(drawn.to(setting.dtype), caches.states[rows].to(setting.dtype))

    return run


def _separate_step(
    setting: Setting, unet: Any, parameters: list[nn.Parameter]
) -> Callable[[Tensor, Tensor], None]:
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE)
    alphas = setting.shape.alphas

    def step(latents: Tensor, states: Tensor) -> None:
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, len(alphas), (len(latents),))
        noisy = add_noise(latents.float(), noise.float(), timesteps, alphas).to(setting.dtype)
        with setting.autocast():
            prediction = unet(noisy, timesteps, encoder_hidden_states=states).sample
        loss = torch.nn.functional.mse_loss(prediction.float(), noise.float())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


class _Nothing(nn.Module):
    """A module that returns its input so that gradients flow through it."""

    def __init__(self, factor: nn.Parameter) -> None:
        super().__init__()
        self.factor = [factor]  # not a parameter of this module

    def forward(self, noisy: Tensor, *_: Any, **__: Any) -> tuple[Tensor]:
        return (noisy * self.factor[0].view(-1)[0],)
