"""Answers to lab 7."""

from typing import Any

import torch
from torch import Tensor

from tests.labs.answers import AlsoRight, Answers

WORDS = "a purple fish in the city in the snow"
CANDIDATES = (
    WORDS,
    f"a picture of {WORDS}",
    "a purple fish",
    "a red house in the desert",
    "a green car in the forest",
)
FAR = set(CANDIDATES[3:])
CURVE = {"steps": [0, 5, 10, 45], "training picture": [4, 3, 2, 1], "kept out": [0.09, 0.08, 0.07, 0.10]}


def chosen(prompts: Any) -> dict[str, Any]:
    return {"caption": WORDS, "candidates": CANDIDATES, "chosen": prompts}


def stopped(steps: Any) -> dict[str, Any]:
    return {"curve": CURVE, "stop_at": steps}


def noise(num: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(num, *shape, generator=torch.Generator().manual_seed(1))


def spread(num: int) -> Tensor:
    return torch.linspace(50, 950, num).long()


ANSWERS: Answers = {
    "learns": (
        lambda losses, moved, floor: losses[-1] < losses[0] and moved > floor + 0.5,
        [
            (lambda losses, moved, floor: losses[-1] < losses[0], "did not move"),
            (lambda losses, moved, floor: moved > floor + 0.5, "ends above its start"),
            (lambda losses, moved, floor: losses[-1] <= losses[0] and moved > floor + 0.5, "did not fall"),
            (lambda losses, moved, floor: losses[-1] < losses[0] and moved > 0.5, "above the floor"),
            (
                lambda losses, moved, floor: (
                    sorted(losses)[::-1] == losses and losses[0] > losses[-1] and moved > floor + 0.5
                ),
                "after it rose",
            ),
            (lambda losses, moved, floor: False, "sound installation"),
            (lambda losses, moved, floor: None, "nothing"),
        ],
    ),
    "questions": (
        lambda num, shape: (spread(num), noise(num, shape)),
        [
            (lambda num, shape: (torch.randint(0, 1000, (num,)), noise(num, shape)), "other timesteps"),
            (lambda num, shape: (spread(num), torch.randn(num, *shape)), "other noise"),
            (lambda num, shape: (torch.full((num,), 500), noise(num, shape)), "leave a part"),
            (lambda num, shape: (torch.linspace(0, 1000, num).long(), noise(num, shape)), "from 0 to 1000"),
            (lambda num, shape: (torch.linspace(0, 999, num), noise(num, shape)), "whole numbers"),
            (lambda num, shape: (spread(num), noise(1, shape).expand(num, *shape)), "same in every question"),
            (lambda num, shape: (spread(num), noise(num, shape)[0]), "shapes"),
        ],
    ),
    "telling": (
        chosen(FAR),
        [
            (chosen(set(CANDIDATES)), "training caption"),
            (chosen(FAR | {CANDIDATES[1]}), "other words"),
            (chosen(FAR | {CANDIDATES[2]}), "other words"),
            (chosen({CANDIDATES[3]}), "anecdote"),
            (chosen(None), "no prompt"),
        ],
    ),
    "stop_at": (
        stopped(10),
        [
            (stopped(45), "that is the trap"),
            (stopped(0), "no training"),
            (stopped(5), "not its lowest"),
            (stopped(7), "nothing was measured"),
            (stopped(None), "no number"),
        ],
    ),
}

ALSO_RIGHT: AlsoRight = {
    "learns": [
        lambda losses, moved, floor: moved > floor + 0.5 and losses[0] - losses[-1] > 0,
        lambda losses, moved, floor: int(losses[-1] / losses[0] < 1) * int(moved - 0.5 > floor) == 1,
    ],
    "questions": [
        lambda num, shape: (
            [int(1000 * (index + 0.5) / num) for index in range(num)],
            torch.stack(
                [torch.randn(shape, generator=torch.Generator().manual_seed(one)) for one in range(num)]
            ),
        )
    ],
    "telling": [chosen(sorted(FAR)), chosen(tuple(FAR))],
    "stop_at": [stopped(10.0)],
}
