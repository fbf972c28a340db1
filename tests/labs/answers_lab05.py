"""Answers to lab 5; the shapes are those of pocket's settings."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detour.bases.base import open_base
from tests.labs.answers import AlsoRight, Answers

BASE = open_base("pocket")
PART = nn.Linear(4, 3)
SHAPES = {
    "base": BASE,
    "latent_shape": (4, 16, 16),
    "text_shape": (77, BASE.cross_attention_width),
    "compression": 48.0,
}
PICTURES = np.random.default_rng(0).integers(0, 255, (2, 4, 4, 3)).astype(np.uint8)
PICTURE = {"seed", "prompt", "steps", "sampler"}
BYTES = PICTURE | {"batch size", "CPU threads"}


def counted(number: int) -> dict[str, Any]:
    return {"parts": {"unet": PART}, "parameters": {"unet": number}}


def own_generators(seeds: list[int], shape: tuple[int, ...]) -> Tensor:
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def one_generator(seeds: list[int], shape: tuple[int, ...]) -> Tensor:
    return torch.randn(len(seeds), *shape, generator=torch.Generator().manual_seed(seeds[0]))


def global_generator(seeds: list[int], shape: tuple[int, ...]) -> Tensor:
    rows = []
    for seed in seeds:
        torch.manual_seed(seed)
        rows.append(torch.randn(shape))
    return torch.stack(rows)


def uniform(seeds: list[int], shape: tuple[int, ...]) -> Tensor:
    return torch.stack([torch.rand(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def decoded(power: int, *, rounded: bool = True, clamped: bool = True) -> Any:
    def decode(vae: Any, latents: Tensor) -> Any:
        unit = vae.decode(latents * vae.config.scaling_factor**power).sample / 2 + 0.5
        unit = (unit.clamp(0, 1) if clamped else unit) * 255
        unit = (unit.round() if rounded else unit).permute(0, 2, 3, 1)
        return (unit.numpy().astype(np.int64) % 256).astype(np.uint8)

    return decode


ANSWERS: Answers = {
    "parameters": (
        counted(15),
        [(counted(2), "tensors"), (counted(12), "numel"), (counted(0), "another number")],
    ),
    "shapes": (
        SHAPES,
        [
            (SHAPES | {"latent_shape": (16, 16, 4)}, "channels last"),
            (SHAPES | {"latent_shape": (3, 128, 128)}, "shrinks each side"),
            (SHAPES | {"text_shape": (6, BASE.cross_attention_width)}, "filled up"),
            (SHAPES | {"compression": 8}, "there are two"),
            (SHAPES | {"compression": 64}, "3 channels in the picture"),
            (SHAPES | {"compression": None}, "missing"),
        ],
    ),
    "start_noise": (
        own_generators,
        [
            (one_generator, "place in the batch"),
            (global_generator, "global generator"),
            (lambda seeds, shape: torch.randn(len(seeds), *shape), "other noise the second time"),
            (
                lambda seeds, shape: own_generators([seeds[0]], shape).expand(len(seeds), *shape),
                "different seeds",
            ),
            (uniform, "torch.rand"),
            (lambda seeds, shape: own_generators(seeds[:1], shape)[0], "for three seeds"),
        ],
    ),
    "decode": (
        decoded(-1),
        [
            (decoded(0), "pale"),
            (decoded(1), "way in"),
            (decoded(-1, rounded=False), "not rounded"),
            (decoded(-1, clamped=False), "black"),
            (lambda vae, latents: vae.decode(latents).sample, "channels last"),
            (
                lambda vae, latents: np.zeros(
                    (len(latents), 8 * latents.shape[2], 8 * latents.shape[3], 3), np.uint8
                ),
                "byte",
            ),
        ],
    ),
    "same_as_engine": (
        {"mine": PICTURES, "theirs": PICTURES},
        [
            ({"mine": PICTURES, "theirs": np.maximum(PICTURES, 9) - 9}, "up to 9 of 255"),
            ({"mine": PICTURES[:1], "theirs": PICTURES}, "as many pictures"),
        ],
    ),
    "determinism": (
        {"for_bytes": BYTES, "for_picture": PICTURE},
        [
            ({"for_bytes": BYTES | {"time of day"}, "for_picture": PICTURE}, "changes nothing"),
            ({"for_bytes": BYTES, "for_picture": BYTES}, "changes bytes"),
            ({"for_bytes": BYTES, "for_picture": PICTURE - {"sampler"}}, "another picture"),
            ({"for_bytes": PICTURE, "for_picture": PICTURE}, "order of sums"),
            ({"for_bytes": None, "for_picture": PICTURE}, "missing"),
        ],
    ),
}

ALSO_RIGHT: AlsoRight = {
    "parameters": [{"parts": {"unet": PART}, "parameters": {"unet": 15.0, "another": 3}}],
    "shapes": [SHAPES | {"latent_shape": torch.Size([4, 16, 16])}, SHAPES | {"compression": 48.01}],
    "start_noise": [
        lambda seeds, shape: torch.cat(
            [torch.randn((1, *shape), generator=torch.Generator().manual_seed(seed + 17)) for seed in seeds]
        )
    ],
    "decode": [
        lambda vae, latents: (
            (vae.decode(latents / vae.config.scaling_factor).sample * 127.5 + 127.5)
            .round()
            .clamp(0, 255)
            .byte()
            .permute(0, 2, 3, 1)
            .numpy()
        )
    ],
    "same_as_engine": [{"mine": PICTURES + 1, "theirs": PICTURES}],
    "determinism": [{"for_bytes": list(BYTES), "for_picture": tuple(PICTURE)}],
}
