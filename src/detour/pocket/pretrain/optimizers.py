"""Muon for matrices and convolutions, AdamW for the rest, and the learning-rate schedule."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from detour.pocket.pretrain.precision import fast_dtype

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan 2024: fastest growth of small singular values


def orthogonalise(matrices: Tensor, *, iterations: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrices, approximately: singular values end between 0.7 and 1.2.

    Args:
        matrices: (count, rows, columns), any float dtype.
        iterations: Newton–Schulz steps.

    Returns:
        same shape, in ``precision.fast_dtype``.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks".
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.to(fast_dtype())
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x.mT if tall else x
    return result


class Muon(torch.optim.Optimizer):
    """Momentum whose step is orthogonalised; a convolution counts as (out, in × kernel).

    ``torch.optim.Muon`` (2.13) takes 2-D parameters one by one; here equal shapes share one batched
    product, which is what makes it affordable on a CPU. The step has AdamW's usual size (RMS 0.2 per
    element at rate one), so that one learning rate serves both.

    Source: Jordan et al. 2024; Liu et al. 2025, arXiv:2502.16982, equation 4.
    """

    def __init__(self, params: Iterable[nn.Parameter], *, lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, _: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update = self._nesterov(parameter, group["momentum"])
                    by_shape[(update.shape[0], update.shape[1])].append((parameter, update))
            for (rows, columns), entries in by_shape.items():
                steps = orthogonalise(torch.stack([update for _parameter, update in entries]))
                scale = -group["lr"] * 0.2 * max(rows, columns) ** 0.5
                for (parameter, _update), step in zip(entries, steps, strict=True):
                    parameter.add_(step.reshape(parameter.shape).to(parameter.dtype), alpha=scale)

    def _nesterov(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        assert parameter.grad is not None
        state["momentum"].lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(state["momentum"], momentum).flatten(1)


def optimizers_for(
    modules: nn.Module, *, lr: float, adam_lr: float | None = None, plain: Iterable[str] = ()
) -> list[torch.optim.Optimizer]:
    """Muon over hidden matrices and AdamW over embeddings, first and last layers, norms and biases.

    Args:
        modules: what is trained; parameters without ``requires_grad`` are left out.
        lr: Muon's rate.
        adam_lr: AdamW's rate, ``lr`` when None.
        plain: parts of names whose parameters AdamW takes although they are matrices.
    """
    hidden: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    names = tuple(plain)
    for name, parameter in modules.named_parameters():
        if parameter.requires_grad:
            is_hidden = parameter.ndim >= 2 and not any(part in name for part in names)
            (hidden if is_hidden else rest).append(parameter)
    return [Muon(hidden, lr=lr), adamw(rest, lr=adam_lr if adam_lr is not None else lr)]


def adamw(parameters: Iterable[nn.Parameter], *, lr: float) -> torch.optim.Optimizer:
    """Build AdamW without weight decay, with a second moment that forgets in some fifty steps."""
    return torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True)


def warmup_stable_decay(step: int, *, steps: int, warmup: int, decay: int) -> float:
    """Factor of the learning rate: rising over ``warmup`` steps, constant, and falling to zero over ``decay``.

    Args:
        step: the step about to be made, from 0.
        steps: number of steps of the whole stage.
        warmup: steps until the full rate.
        decay: steps at the end over which it falls to zero.

    Source: Hu et al. 2024, arXiv:2404.06395 (WSD), which can be ended whenever time is up.
    """
    rising = min(1.0, (step + 1) / max(warmup, 1))
    falling = min(1.0, max(steps - step, 0) / max(decay, 1))
    return rising * falling


def set_rate(optimizers: Iterable[torch.optim.Optimizer], factor: float) -> None:
    """Multiply every group's initial rate by ``factor``."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group.setdefault("peak_lr", group["lr"])
            group["lr"] = group["peak_lr"] * factor


def states(optimizers: Iterable[torch.optim.Optimizer]) -> list[dict[str, Any]]:
    """Optimizer states that a resumed stage needs."""
    return [optimizer.state_dict() for optimizer in optimizers]
