"""Answers to lab 12."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detour.diffusion.randomness import chance_for
from tests.labs.answers import AlsoRight, Answers

PICTURES = np.random.default_rng(0).integers(0, 255, (2, 4, 4, 3)).astype(np.uint8)
TABLE = [
    {"scale": 1.0, "clip": 0.72, "clipped": 0.01},
    {"scale": 3.0, "clip": 0.75, "clipped": 0.015},
    {"scale": 7.5, "clip": 0.71, "clipped": 0.08},
    {"scale": 20.0, "clip": 0.50, "clipped": 0.15},
    {"scale": "true pictures", "clip": 0.80, "clipped": 0.04},
]
READ = {"table": TABLE, "best_scale": 3.0, "clipped_from": 7.5}


def guided(combine: Callable[[Tensor, Tensor, float], Tensor]) -> Any:
    def answer(
        unet: Any, latents: Tensor, timestep: Tensor, text: Tensor, no_text: Tensor, scale: float
    ) -> Tensor:
        without, with_prompt = unet(torch.cat([latents] * 2), timestep, torch.cat([no_text, text])).chunk(2)
        return combine(without, with_prompt, scale)

    return answer


def prompt_first(
    unet: Any, latents: Tensor, timestep: Tensor, text: Tensor, no_text: Tensor, scale: float
) -> Tensor:
    with_prompt, without = unet(latents.repeat(2, 1, 1, 1), timestep, torch.cat([text, no_text])).chunk(2)
    return torch.lerp(without, with_prompt, scale)


def two_passes(
    unet: Any, latents: Tensor, timestep: Tensor, text: Tensor, no_text: Tensor, scale: float
) -> Tensor:
    without = unet(latents, timestep, no_text)
    return without + scale * (unet(latents, timestep, text) - without)


def at_zero(
    unet: Any, latents: Tensor, timestep: Tensor, text: Tensor, no_text: Tensor, scale: float
) -> Tensor:
    both = unet(torch.cat([latents] * 2), torch.zeros_like(timestep), torch.cat([no_text, text]))
    without, with_prompt = both.chunk(2)
    return without + scale * (with_prompt - without)


def whole_batch(
    unet: Any, latents: Tensor, timestep: Tensor, text: Tensor, no_text: Tensor, scale: float
) -> Tensor:
    both: Tensor = unet(torch.cat([latents] * 2), timestep, torch.cat([no_text, text]))
    return both


def left_out(captions: list[str], step: int, share: float, *, by: str = "each") -> list[str]:
    place = {"each": lambda i: (step, i), "step": lambda i: (step, 0), "picture": lambda i: (0, i)}[by]
    return ["" if chance_for(12, *place(i), purpose="x") < share else c for i, c in enumerate(captions)]


class Restless:
    """Draws from a generator that it carries along."""

    def __init__(self) -> None:
        self.numbers = np.random.default_rng(0)

    def __call__(self, captions: list[str], _step: int, share: float) -> list[str]:
        return ["" if self.numbers.random() < share else caption for caption in captions]


ANSWERS: Answers = {
    "guided_prediction": (
        guided(lambda without, text, scale: without + scale * (text - without)),
        [
            (guided(lambda without, text, scale: text), "go on beyond"),
            (guided(lambda without, text, scale: text + scale * (text - without)), "w = s − 1"),
            (guided(lambda without, text, scale: text - scale * (text - without)), "which half is which"),
            (guided(lambda without, text, scale: scale * text), "not an answer"),
            (guided(lambda without, text, scale: scale * (text - without)), "add the answer"),
            (guided(lambda without, text, scale: without), "without a prompt"),
            (guided(lambda without, text, scale: without + 3.0 * (text - without)), "scale is not used"),
            (at_zero, "at timestep 0"),
            (two_passes, "asked 2 times"),
            (whole_batch, "chunk(2)"),
        ],
    ),
    "no_prompt": (
        lambda stage, num: stage.encode([""] * num).states,
        [
            (lambda stage, num: torch.zeros(num, 77, 4), "zeros they never saw"),
            (lambda stage, num: torch.randn(num, 77, 4), "never asks the text encoder"),
            (lambda stage, num: 2 * stage.encode([""] * num).states, "changes the states"),
            (lambda stage, num: stage.encode([" "] * num).states, "no blank"),
            (lambda stage, num: stage.encode(["nothing"] * num).states, "nothing"),
            (lambda stage, num: stage.encode([""]).states, "as many prompts"),
        ],
    ),
    "same_as_pipeline": (
        {"mine": PICTURES, "theirs": PICTURES},
        [
            ({"mine": PICTURES, "theirs": np.maximum(PICTURES, 7) - 7}, "up to 7 of 255"),
            ({"mine": PICTURES[:1], "theirs": PICTURES}, "cannot be compared"),
        ],
    ),
    "shown_captions": (
        left_out,
        [
            (lambda captions, step, share: captions, "ever left out"),
            (lambda captions, step, share: [c for c in captions if c[-1] > "3"], "stays in the batch"),
            (lambda captions, step, share: ["?" for c in captions], "something other"),
            (Restless(), "carried along"),
            (
                lambda captions, step, share: left_out(captions, step, share, by="step"),
                "all captions of a step",
            ),
            (lambda captions, step, share: left_out(captions, step, share, by="picture"), "same pictures"),
            (lambda captions, step, share: left_out(captions, step, 1 - share), "25 %"),
        ],
    ),
    "read_the_table": (
        READ,
        [
            (READ | {"best_scale": 7.5}, "habit"),
            (READ | {"best_scale": 20.0}, "largest number"),
            (READ | {"clipped_from": 3.0}, "go down the column"),
            (READ | {"clipped_from": "never"}, "go down the column"),
            (READ | {"clipped_from": None}, "missing"),
            (READ | {"best_scale": "3"}, "none of the scales"),
            (READ | {"clipped_from": "always"}, "as a number"),
        ],
    ),
}

ALSO_RIGHT: AlsoRight = {
    "guided_prediction": [
        guided(lambda without, text, scale: (1 - scale) * without + scale * text),
        guided(lambda without, text, scale: text + (scale - 1) * (text - without)),
        prompt_first,
    ],
    "no_prompt": [
        lambda stage, num: stage.encode([""]).states.repeat(num, 1, 1),
        lambda stage, num: torch.cat([stage.encode([""]).states for _ in range(num)]),
    ],
    "same_as_pipeline": [{"mine": PICTURES + 1, "theirs": PICTURES}],
    "shown_captions": [
        lambda captions, step, share: tuple(left_out(captions, step, share)),
        lambda captions, step, share: [
            one if chance_for(3, step, index, purpose="y") >= share else ""
            for index, one in enumerate(captions)
        ],
    ],
    "read_the_table": [READ | {"best_scale": 3, "clipped_from": 7.5}],
}
