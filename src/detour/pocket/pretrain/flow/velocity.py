"""The transformer's training: rectified flow with the raw velocity and logit-normal times."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor

from detour.pocket.pretrain.flow.conditioning import TextStates, draw_t5_lengths, t5_bias
from detour.pocket.pretrain.flow.parts import SCHEDULE
from detour.pocket.pretrain.precision import autocast


def draw_sigmas(count: int, generator: torch.Generator) -> Tensor:
    """Noise levels in (0, 1), (count,) float32: logit-normal with mean 0 and deviation 1, spread evenly.

    One in each of ``count`` equally likely intervals, in random order, which lowers the gradient's variance.

    Source: Esser et al. 2024, arXiv:2403.03206, equation 19.
    """
    order = torch.randperm(count, generator=generator)
    share = ((order + torch.rand(count, generator=generator)) / count).clamp(1e-4, 1 - 1e-4)
    return torch.special.ndtri(share).sigmoid()


def velocity_loss(
    transformer: SD3Transformer2DModel,
    latents: Tensor,
    text: TextStates,
    generator: torch.Generator,
    *,
    weights: Tensor | None = None,
) -> tuple[Tensor, Mapping[str, float]]:
    """One batch's squared error of the predicted velocity.

    ``x_σ = (1 − σ) x + σ ε``, target ``ε − x``, and the transformer is told ``1000 σ`` in float32.

    Args:
        transformer: in training mode, with ``WeightedJointAttention``.
        latents: (batch, 16, 16, 16) float32, shifted and scaled to unit variance.
        text: of the same batch.
        generator: of times, noise and the number of zero states.
        weights: (batch, 1, 16, 16) float32 with mean 1, of each latent's error; None counts all alike.

    Returns:
        scalar loss and figures for the log (the unweighted error in the thirds of little, middle and much
        noise).

    Source: Liu et al. 2022, arXiv:2209.03003; Esser et al. 2024, arXiv:2403.03206, section 2.
    """
    sigmas = draw_sigmas(len(latents), generator)
    noise = torch.randn(latents.shape, generator=generator)
    level = sigmas[:, None, None, None]
    noisy = (1 - level) * latents + level * noise
    num_t5 = draw_t5_lengths(len(latents), generator)
    patches = (latents.shape[-1] // transformer.config.patch_size) ** 2
    bias = t5_bias(num_t5, num_keys=patches + text.joint.shape[1])
    with autocast():
        predicted = transformer(
            hidden_states=noisy,
            encoder_hidden_states=text.joint,
            pooled_projections=text.pooled,
            timestep=sigmas * SCHEDULE["num_train_timesteps"],
            joint_attention_kwargs={"key_bias": bias},
        ).sample
    squares = (predicted.float() - (noise - latents)).square()
    loss = squares.mean() if weights is None else (weights * squares).mean()
    with torch.no_grad():
        errors = squares.mean(dim=(1, 2, 3))
        thirds = errors[sigmas.argsort()].tensor_split(3)
        figures = {f"v{i}": float(third.mean()) for i, third in enumerate(thirds, start=1)}
    return loss, figures
