"""Answers to lab 10."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.labs.answers import AlsoRight, Answers

PICTURES = np.random.default_rng(0).integers(0, 255, (1, 4, 4, 3)).astype(np.uint8)


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
            (lambda steps, offset, trained: leading(steps, 0, trained), "offset is missing"),
            (lambda *given: leading(*given).flip(0), "stops rise"),
            (lambda steps, *_: leading(steps + 1), "came back"),
            (
                lambda steps, offset, trained: torch.arange(trained, 0, -trained / steps).round().long() - 1,
                "another spacing",
            ),
            (
                lambda steps, offset, trained: (
                    torch.arange(steps - 1, -1, -1) * trained / steps + offset
                ).long(),
                "1000 // 30",
            ),
            (lambda *given: leading(*given) + 7, "multiples"),
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
            (lambda x, e, a, b: 1.0, "a tensor of shape"),
        ],
    ),
    "same_as_ddim": (
        {"mine": PICTURES, "theirs": PICTURES},
        [
            ({"mine": PICTURES, "theirs": np.maximum(PICTURES, 5) - 5}, "up to 5 of 255"),
            ({"mine": PICTURES[0], "theirs": PICTURES}, "cannot be compared"),
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
            (lambda rows, budget_s: ("dpm++", 10) if budget_s >= 0.2 else None, "is the nearest"),
        ],
    ),
}

ALSO_RIGHT: AlsoRight = {
    "leading": [
        lambda steps, offset, trained: [trained // steps * index + offset for index in range(steps)][::-1],
        lambda steps, offset, trained: np.arange(steps)[::-1].copy() * (trained // steps) + offset,
    ],
    "ddim_step": [
        lambda x, e, a, b: (b / a).sqrt() * x + ((1 - b).sqrt() - (b * (1 - a) / a).sqrt()) * e,
        lambda x, e, a, b: (ddim(x.double(), e.double(), a.double(), b.double())).float(),
    ],
    "same_as_ddim": [{"mine": PICTURES + 1, "theirs": PICTURES}],
    "sweet_spot": [
        lambda rows, budget: next(
            (
                [row["sampler"], row["steps"]]
                for row in sorted(rows, key=lambda row: row["distance"])
                if not row["seconds"] > budget
            ),
            None,
        )
    ],
}
