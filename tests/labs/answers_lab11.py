"""Answers to lab 11."""

from typing import Any

import torch
from torch import Tensor, nn

from tests.labs.answers import AlsoRight, Answers


def encoded(vae: Any, pixels: Tensor) -> Tensor:
    return vae.encode(pixels).latent_dist.mean


def shrunk(_vae: Any, pixels: Tensor) -> Tensor:
    small = nn.functional.interpolate(pixels, pixels.shape[-1] // 8, mode="area")
    return torch.cat([small, torch.zeros_like(small[:, :1])], dim=1)


def noised(latents: Tensor, noise: Tensor, timesteps: Tensor, alphas: Tensor) -> Tensor:
    alpha = alphas[timesteps].view(-1, 1, 1, 1)
    return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise


def at(alphas: Tensor, timesteps: Tensor) -> Tensor:
    return alphas[timesteps].view(-1, 1, 1, 1)


def trainable(unet: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in unet.parameters() if parameter.requires_grad]


ANSWERS: Answers = {
    "faulty_lines": (
        {3, 4, 8, 10, 11},
        [
            ({3, 4, 8, 10, 11, 13}, "noise is the target"),
            ({3, 8, 10, 11, 5}, "line 5"),
            ({4, 8, 10, 11}, "bits of precision"),
            ({3, 8, 10, 11}, "how often"),
            ({3, 15, 10, 11}, "who makes it"),
            ({3, 15, 8, 11}, "variance"),
            ({3, 15, 8, 10}, "when it was trained"),
        ],
    ),
    "latents_of": (
        lambda vae, pixels: encoded(vae, pixels) * vae.config.scaling_factor,
        [
            (encoded, "not scaled"),
            (lambda vae, pixels: encoded(vae, pixels) / vae.config.scaling_factor, "way back"),
            (shrunk, "shrunken pixels"),
            (lambda vae, pixels: pixels, "an eighth of the side"),
            (lambda vae, pixels: encoded(vae, pixels) * vae.config.scaling_factor + 1, "nothing else"),
        ],
    ),
    "noisy_of": (
        noised,
        [
            (lambda latents, noise, timesteps, alphas: latents + noise, "x + ε"),
            (lambda x, e, t, a: at(a, t) * x + (1 - at(a, t)) * e, "without the roots"),
            (lambda x, e, t, a: (1 - at(a, t)).sqrt() * x + at(a, t).sqrt() * e, "exchanged"),
            (lambda x, e, t, a: at(a, t).sqrt() * x + e, "no factor"),
            (lambda x, e, t, a: noised(x, e, t[:1].expand_as(t), a), "first one's timestep"),
            (lambda x, e, t, a: x, "as they are"),
            (lambda x, e, t, a: 1.0, "(N, 1, 1, 1)"),
        ],
    ),
    "states_of": (
        lambda stage, captions: stage.encode(captions).states,
        [
            (lambda stage, captions: torch.zeros(len(captions), 77, 4), "zeros"),
            (lambda stage, captions: stage.encode(["" for _ in captions]).states, "empty prompts"),
            (lambda stage, captions: stage.encode([captions[0]] * len(captions)).states, "first caption"),
            (lambda stage, captions: stage.encode(captions[::-1]).states, "in their order"),
            (lambda stage, captions: stage.encode(captions[:1]).states, "its own caption"),
        ],
    ),
    "adapter_dtype": (
        torch.float32,
        [
            (torch.bfloat16, "rounds small updates away"),
            (torch.float16, "rounds small updates away"),
            (torch.float64, "twice as much"),
            ("fp32", "no dtype"),
        ],
    ),
    "trainable": (
        trainable,
        [
            (lambda unet: filter(lambda p: p.requires_grad, unet.parameters()), "empty stream"),
            (lambda unet: (p for p in unet.parameters() if p.requires_grad), "make a list"),
            (lambda unet: list(unet.parameters()), "frozen"),
            (lambda unet: trainable(unet)[:1], "1 parameters where 2"),
            (lambda unet: 2 * trainable(unet), "more than once"),
            (lambda unet: [], "0 parameters where 2"),
        ],
    ),
    "same_as_real": (
        {"difference": 1e-5},
        [
            ({"difference": 0.3}, "another computation"),
            ({"difference": float("nan")}, "another computation"),
            ({"difference": 2e-3}, "another computation"),
            ({"difference": float("inf")}, "another computation"),
            ({"difference": -1e-5}, "negative"),
        ],
    ),
}

ALSO_RIGHT: AlsoRight = {
    "faulty_lines": [[3, 15, 8, 10, 11], (3, 4, 15, 8, 10, 11)],
    "latents_of": [
        lambda vae, pixels: vae.config.scaling_factor * vae.encode(pixels).latent_dist.mode(),
        lambda vae, pixels: torch.cat(
            [vae.config.scaling_factor * encoded(vae, one[None]) for one in pixels]
        ),
    ],
    "noisy_of": [
        lambda x, e, t, a: torch.stack(
            [
                a[stop] ** 0.5 * one + (1 - a[stop]) ** 0.5 * noise
                for one, noise, stop in zip(x, e, t, strict=True)
            ]
        ),
        lambda x, e, t, a: a[t].sqrt()[:, None, None, None] * x + (1 - a[t]).sqrt()[:, None, None, None] * e,
    ],
    "states_of": [lambda stage, captions: torch.cat([stage.encode([one]).states for one in captions])],
    "adapter_dtype": [torch.float],
    "trainable": [
        lambda unet: tuple(filter(lambda parameter: parameter.requires_grad, unet.parameters())),
        lambda unet: {one for one in unet.parameters() if one.requires_grad},
    ],
    "same_as_real": [{"difference": 0.0}, {"difference": torch.tensor(3e-4)}],
}
