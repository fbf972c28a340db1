"""Answers to lab 10."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.labs.answers import Answers

PICTURES = np.full((1, 4, 4, 3), 100, np.uint8)


def leading(steps: int, offset: int = 1, trained: int = 1000) -> Tensor:
    return torch.arange(steps - 1, -1, -1) * (trained // steps) + offset


def guess(noisy: Tensor, noise: Tensor, alpha: Tensor) -> Tensor:
    return (noisy - (1 - alpha).sqrt() * noise) / alpha.sqrt()


def ddim(noisy: Tensor, noise: Tensor, alpha: Tensor, following: Tensor) -> Tensor:
    return following.sqrt() * guess(noisy, noise, alpha) + (1 - following).sqrt() * noise


def chosen(key: Callable[[Any], Any], *, limit: bool = True, empty: Any = None) -> Any:
    def answer(rows: list[dict[str, Any]], budget_s: float) -> Any:
        fitting = [row for row in rows if row["seconds"] <= budget_s or not limit]
        best = min(fitting, key=key, default=None)
        return (best["sampler"], best["steps"]) if best else empty

    return answer


ANSWERS: Answers = {
    "leading": (
        leading,
        [
            (lambda steps: leading(steps, offset=0), "offset is missing"),
            (lambda steps: leading(steps).flip(0), "stops rise"),
            (lambda steps: leading(steps + 1), "11 stops"),
            (lambda steps: torch.arange(1000, 0, -1000 / steps).round().long() - 1, "another spacing"),
            (lambda steps: (torch.arange(steps - 1, -1, -1) * 1000 / steps + 1).round().long(), "1000 // 30"),
            (lambda steps: leading(steps) + 7, "multiples"),
        ],
    ),
    "ddim_step": (
        ddim,
        [
            (lambda x, e, a, b: guess(x, e, a), "mush until the end"),
            (lambda x, e, a, b: b.sqrt() * guess(x, e, a), "no noise is put back"),
            (lambda x, e, a, b: b.sqrt() * guess(x, e, a) + (1 - a).sqrt() * e, "less noise at the next"),
            (lambda x, e, a, b: x, "stays where it is"),
            (lambda x, e, a, b: ddim(x, e, b, a), "exchanged"),
            (lambda x, e, a, b: b * (x - (1 - a) * e) / a + (1 - b) * e, "without their roots"),
            (lambda x, e, a, b: x - e, "first the guess"),
            (lambda x, e, a, b: 1.0, "from latents to latents"),
        ],
    ),
    "same_as_ddim": (
        {"mine": PICTURES, "theirs": PICTURES + 1},
        [
            ({"mine": PICTURES, "theirs": PICTURES + 5}, "up to 5 of 255"),
            ({"mine": PICTURES[0], "theirs": PICTURES}, "one picture"),
        ],
    ),
    "sweet_spot": (
        chosen(lambda row: row["distance"]),
        [
            (chosen(lambda row: row["distance"], limit=False), "a limit, not a wish"),
            (chosen(lambda row: row["seconds"]), "that is the quickest"),
            (chosen(lambda row: -row["steps"]), "most steps"),
            (chosen(lambda row: -row["clip"]), "best score"),
            (chosen(lambda row: row["distance"], empty=("euler", 5)), "None when no row fits"),
            (lambda rows, budget_s: None, "is the answer"),
            (lambda rows, budget_s: ("dpm++", 10) if budget_s > 1 else None, "not take the nearest"),
        ],
    ),
}
