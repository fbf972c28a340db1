"""Three ways to make one LoRA training step, written so that they do the same work on the same batch.

``official`` does what the text-to-image LoRA script of diffusers does: VAE and text encoder inside the step, PEFT,
AdamW over one tensor for each factor, clipping over the same list. ``peft`` keeps PEFT and the per-tensor optimizer
but takes latents and text from caches. ``detour`` is this package's own step.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from detour.adapters.attach import attach_new
from detour.adapters.fused import use_fused
from detour.adapters.targets import adaptable_layers, select
from detour.bases.base import Base
from detour.bases.latents import to_pixels
from detour.diffusion.schedule import add_noise, alphas_cumprod
from detour.specs import OptimSpec
from detour.training.attention import use_training_attention
from detour.training.batches import BatchPlan
from detour.training.cache import TrainingData, cache_latents, cache_text
from detour.training.flat import FlatParameters, ParameterGroup
from detour.training.frozen import use_frozen_paths
from detour.training.loop import TrainState, accumulate
from detour.training.optim import FlatAdamW
from detour.training.step import Denoiser, TrainingLoss

LEARNING_RATE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What every variant trains on."""

    base: Base
    pictures: np.ndarray  # uint8 (N, H, W, 3)
    captions: list[str]
    batch: int
    rank: int
    targets: str
    dtype: torch.dtype


def official(setting: Setting) -> Callable[[int], None]:
    """The loop of the official script; a call makes one step."""
    base = setting.base
    unet = base.load_unet(dtype=setting.dtype, device="cpu")
    vae = base.load_vae(dtype=setting.dtype, device="cpu")
    text = base.load_text(dtype=setting.dtype, device="cpu")
    step = _peft_step(setting, unet)

    def run(index: int) -> None:
        rows = _rows(setting, index)
        with torch.no_grad():
            pixels = to_pixels(setting.pictures[rows]).to(setting.dtype)
            latents = vae.encode(pixels).latent_dist.sample() * vae.config.scaling_factor
            states = text.encode([setting.captions[row] for row in rows]).states
        step(latents, states)

    return run


def peft(setting: Setting) -> Callable[[int], None]:
    """PEFT with caches and the per-tensor optimizer; a call makes one step."""
    base = setting.base
    unet = base.load_unet(dtype=setting.dtype, device="cpu")
    latents = cache_latents(
        base.load_vae(dtype=torch.float32, device="cpu"), list(setting.pictures), flip=False
    )
    texts = cache_text(base.load_text(dtype=torch.float32, device="cpu"), setting.captions)
    step = _peft_step(setting, unet)

    def run(index: int) -> None:
        rows = _rows(setting, index)
        drawn = latents.means[0, rows] + latents.stds[0, rows] * torch.randn_like(latents.stds[0, rows])
        step(
            drawn.to(setting.dtype),
            texts.encode([setting.captions[row] for row in rows]).states.to(setting.dtype),
        )

    return run


def detour(setting: Setting) -> Callable[[int], None]:
    """This package's step: caches, flat buffer, fused optimizer, attention by shape."""
    base = setting.base
    unet = base.load_unet(dtype=setting.dtype, device="cpu")
    attached = attach_new(
        unet,
        "unet",
        select(adaptable_layers(unet), setting.targets),
        rank=setting.rank,
        alpha=float(setting.rank),
        dropout=0.0,
        init="kaiming",
        seed=0,
    )
    use_fused(attached)
    use_training_attention(unet, device="cpu", dtype=setting.dtype)
    use_frozen_paths(unet)
    latents = cache_latents(
        base.load_vae(dtype=torch.float32, device="cpu"), list(setting.pictures), flip=False
    )
    texts = cache_text(base.load_text(dtype=torch.float32, device="cpu"), setting.captions)
    flat = FlatParameters([ParameterGroup("unet", tuple(attached.parameters()))])
    state = TrainState(flat, FlatAdamW(flat, OptimSpec()), rate=lambda _: LEARNING_RATE)
    loss_fn = TrainingLoss(
        denoiser=Denoiser(
            unet=unet,
            device="cpu",
            dtype=setting.dtype,
            alphas=alphas_cumprod(base.scheduler_config()),
            kind="epsilon",
            size_px=base.native_size_px,
        ),
        plan=BatchPlan(seed=0, batch=setting.batch),
        data=TrainingData(
            latents,
            texts,
            captions=tuple(setting.captions),
            epoch=tuple(range(len(setting.captions))),
        ),
    )

    def run(_: int) -> None:
        accumulate(loss_fn, state.step, 1)
        flat.clip_grads(1.0)
        state.update()

    return run


def forward_only(setting: Setting) -> Callable[[int], None]:
    """The plain UNet's forward pass without gradients, the yardstick of a step's cost."""
    unet = setting.base.load_unet(dtype=setting.dtype, device="cpu")
    side = setting.base.native_size_px // setting.base.latent_factor
    latents = torch.randn(setting.batch, unet.config.in_channels, side, side, dtype=setting.dtype)
    states = torch.randn(setting.batch, 77, unet.config.cross_attention_dim, dtype=setting.dtype)
    timesteps = torch.randint(0, 1000, (setting.batch,))

    @torch.no_grad()
    def run(_: int) -> None:
        unet(latents, timesteps, encoder_hidden_states=states)

    return run


def _peft_step(setting: Setting, unet: torch.nn.Module) -> Callable[[torch.Tensor, torch.Tensor], None]:
    from peft import LoraConfig, inject_adapter_in_model

    names = [layer.path for layer in select(adaptable_layers(unet), setting.targets)]
    config = LoraConfig(r=setting.rank, lora_alpha=setting.rank, target_modules=names)
    inject_adapter_in_model(config, unet)
    parameters = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.data = parameter.data.float()
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE)
    alphas = alphas_cumprod(setting.base.scheduler_config())

    def step(latents: torch.Tensor, states: torch.Tensor) -> None:
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, len(alphas), (len(latents),))
        noisy = add_noise(latents.float(), noise.float(), timesteps, alphas).to(setting.dtype)
        with torch.autocast("cpu", setting.dtype, enabled=setting.dtype != torch.float32):
            prediction = unet(noisy, timesteps, encoder_hidden_states=states).sample
        loss = torch.nn.functional.mse_loss(prediction.float(), noise.float())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _rows(setting: Setting, index: int) -> list[int]:
    return [(index * setting.batch + k) % len(setting.captions) for k in range(setting.batch)]
