"""A random layer of each algorithm, for a Linear (6 → 8) and a 3×3 convolution (4 → 6 channels)."""

from collections.abc import Callable

import torch
from torch import Tensor

from detour.adapters.layers import DoraLayer, Layer, LoraLayer
from detour.adapters.lycoris_layers import LohaLayer, LokrLayer

LINEAR = (8, 6)
CONV = (6, 4, 3, 3)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 31 * sum(shape) + len(shape))
    return 0.5 * torch.randn(shape, generator=generator)


def lora(shape: tuple[int, ...]) -> LoraLayer:
    if len(shape) == 2:
        return LoraLayer(down=numbers(3, shape[1]), up=numbers(shape[0], 3), alpha=5.0)
    return LoraLayer(down=numbers(3, *shape[1:]), up=numbers(shape[0], 3, 1, 1), alpha=5.0)


def dora(shape: tuple[int, ...]) -> DoraLayer:
    return DoraLayer(change=lora(shape), magnitude=numbers(shape[0]).abs() + 0.1)


def loha(shape: tuple[int, ...]) -> LohaLayer:
    inputs = shape[1] * (shape[2] * shape[3] if len(shape) == 4 else 1)
    a, b = (numbers(shape[0], 2, seed=s) for s in (1, 2)), (numbers(2, inputs, seed=s) for s in (3, 4))
    return LohaLayer(w1_a=next(a), w2_a=next(a), w1_b=next(b), w2_b=next(b), alpha=5.0)


def loha_tucker(shape: tuple[int, ...]) -> LohaLayer:
    out, inputs, *kernel = shape
    return LohaLayer(
        w1_a=numbers(2, out, seed=1), w1_b=numbers(2, inputs, seed=2), t1=numbers(2, 2, *kernel, seed=3),
        w2_a=numbers(2, out, seed=4), w2_b=numbers(2, inputs, seed=5), t2=numbers(2, 2, *kernel, seed=6),
        alpha=5.0,
    )  # fmt: skip


def lokr(shape: tuple[int, ...]) -> LokrLayer:
    """Second matrix in factors."""
    inputs = shape[1] // 2 * (shape[2] * shape[3] if len(shape) == 4 else 1)
    return LokrLayer(w1=numbers(2, 2), w2_a=numbers(shape[0] // 2, 3), w2_b=numbers(3, inputs), alpha=5.0)


def lokr_both(shape: tuple[int, ...]) -> LokrLayer:
    inputs = shape[1] // 2 * (shape[2] * shape[3] if len(shape) == 4 else 1)
    return LokrLayer(
        w1_a=numbers(2, 3),
        w1_b=numbers(3, 2),
        w2_a=numbers(shape[0] // 2, 3),
        w2_b=numbers(3, inputs),
        alpha=5.0,
    )


def lokr_whole(shape: tuple[int, ...]) -> LokrLayer:
    made = LokrLayer(w1=numbers(2, 2), w2=numbers(shape[0] // 2, shape[1] // 2, *shape[2:]), alpha=1.0)
    return LokrLayer(w1=made.w1, w2=made.w2, alpha=float(made.rank))


def lokr_tucker(shape: tuple[int, ...]) -> LokrLayer:
    out, inputs, *kernel = shape
    return LokrLayer(
        w1=numbers(2, 2),
        t2=numbers(3, 3, *kernel),
        w2_a=numbers(3, out // 2),
        w2_b=numbers(3, inputs // 2),
        alpha=5.0,
    )


def dora_loha(shape: tuple[int, ...]) -> DoraLayer:
    return DoraLayer(change=loha(shape), magnitude=numbers(shape[0]).abs() + 0.1)


LINEAR_KINDS: dict[str, Callable[[tuple[int, ...]], Layer]] = {
    "lora": lora, "dora": dora, "loha": loha, "lokr": lokr, "lokr_both": lokr_both, "lokr_whole": lokr_whole,
}  # fmt: skip
CONV_KINDS = {**LINEAR_KINDS, "loha_tucker": loha_tucker, "lokr_tucker": lokr_tucker}
EVERY = [(name, make, LINEAR) for name, make in LINEAR_KINDS.items()] + [
    (name, make, CONV) for name, make in CONV_KINDS.items()
]
IDS = [f"{name}-{'linear' if len(shape) == 2 else 'conv'}" for name, _, shape in EVERY]
