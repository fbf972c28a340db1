"""Answers to lab 6; the sizes are those of SD 1.5's settings."""

from typing import Any

import torch
from torch import Tensor, nn

from detour.adapters.blocks import block_of
from detour.adapters.targets import adaptable_layers, select
from detour.bases.base import open_base
from tests.labs.answers import AlsoRight, Answers

LAYERS = adaptable_layers(open_base("pocket").meta_network())


def sums(targets: str, rank: int) -> dict[str, int]:
    found = {"down": 0, "mid": 0, "up": 0}
    for layer in select(LAYERS, targets):
        found[block_of(f"unet.{layer.path}").split(".")[0]] += rank * (layer.in_features + layer.out_features)
    return found


def counted(by_side: dict[str, Any]) -> dict[str, Any]:
    return {"base": "pocket", "rank": 4, "by_side": by_side}


RIGHT = sums("attn", 4)
NUMBERS = {
    side: sum(block_of(f"unet.{one.path}").startswith(side) for one in select(LAYERS, "attn"))
    for side in RIGHT
}

MODEL = nn.Sequential(nn.Linear(10, 10, bias=False), nn.Linear(5, 1))
MODEL[0].requires_grad_(False)


def shared(share: float) -> dict[str, Any]:
    return {"unet": MODEL, "share": share}


def product(down: Tensor, up: Tensor, factor: float) -> Tensor:
    return factor * (up @ down)


ANSWERS: Answers = {
    "by_side": (
        counted(RIGHT),
        [
            (counted(sums("attn", 1)), "rank 1"),
            (counted(sums("cross-attn", 4)), "cross-attention layers alone"),
            (counted(RIGHT | {"down": RIGHT["up"], "up": RIGHT["down"]}), "exchanged"),
            (counted(NUMBERS), "numbers of layers"),
            (counted(RIGHT | {"mid": 7}), "not the sum"),
            (counted(RIGHT | {"mid": None}), "mid has no value"),
        ],
    ),
    "sizes": (
        {8, 16, 32, 64},
        [
            ({16, 32}, "what is copied"),
            ({16, 32, 64}, "the middle is missing"),
            ({8, 16, 32, 64, 128}, "128 wide"),
            ({8, 64}, "32, 16 is missing"),
        ],
    ),
    "share": (
        shared(6 / 106),
        [
            (shared(6 / 100), "base alone"),
            (shared(600 / 106), "percent"),
            (shared(2 / 3), "share of tensors"),
            (shared(0.5), "two sums"),
        ],
    ),
    "scale": (
        lambda rank, alpha: alpha / rank,
        [
            (lambda rank, alpha: rank / alpha, "rank / alpha"),
            (lambda rank, alpha: rank * alpha, "product"),
            (lambda rank, alpha: alpha, "rank is missing"),
            (lambda rank, alpha: alpha / rank**0.5, "rank-stabilised"),
            (lambda rank, alpha: 1.0, "where they are equal"),
        ],
    ),
    "delta_w": (
        lambda down, up, alpha: product(down, up, alpha / down.shape[0]),
        [
            (lambda down, up, alpha: product(down, up, 1.0), "scale is missing"),
            (lambda down, up, alpha: product(down, up, alpha / down.shape[1]), "input's width"),
            (lambda down, up, alpha: product(down, up, alpha / up.shape[0]), "output's width"),
            (lambda down, up, alpha: product(down, up, 1.0).T, "(out, in)"),
            (lambda down, up, alpha: product(down, up, 0.3), "one matrix product"),
        ],
    ),
    "lost_alpha": (
        lambda rank, alpha: abs(rank / alpha - 1),
        [
            (lambda rank, alpha: abs(alpha / rank - 1), "over what was read"),
            (lambda rank, alpha: rank / alpha, "at alpha = rank"),
            (lambda rank, alpha: 1 - rank / alpha, "negative"),
            (lambda rank, alpha: abs(rank - alpha), "their ratio"),
        ],
    ),
}

ALSO_RIGHT: AlsoRight = {
    "by_side": [counted({side: float(number) for side, number in RIGHT.items()})],
    "sizes": [[64, 32, 16, 8], (8.0, 16.0, 32.0, 64.0)],
    "share": [shared(6 / 106 + 1e-9)],
    "scale": [lambda rank, alpha: alpha * rank**-1, lambda rank, alpha: round(alpha / rank, 5)],
    "delta_w": [
        lambda down, up, alpha: (down.T @ up.T).T * alpha / len(down),
        lambda down, up, alpha: sum(
            alpha / len(down) * torch.outer(up[:, index], down[index]) for index in range(len(down))
        ),
    ],
    "lost_alpha": [
        lambda rank, alpha: abs(alpha - rank) / alpha,
        lambda rank, alpha: max(rank / alpha - 1, 1 - rank / alpha),
    ],
}
