"""Plain LoRA on frozen linear layers as one autograd function, for one layer or for several that read one input.

What autograd would do through PEFT's modules and what is left out here: the frozen weight gets no gradient and nothing
is kept for it; the input is read once for all layers of a group and its gradient is added up in place; where rows are
many, ``W + scale · up @ down`` is formed, so that forward and input gradient are one matrix product each.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

Frozen = tuple[Tensor, Tensor | None]
"""Weight and bias of a frozen layer."""


def lora_linears(
    x: Tensor,
    frozen: tuple[Frozen, ...],
    factors: tuple[tuple[Tensor, Tensor], ...],
    scales: tuple[float, ...],
) -> tuple[Tensor, ...]:
    """``W_i x + b_i + scale_i · up_i (down_i x)`` of layers that share one input.

    Args:
        x: (..., in_features), in the dtype of the frozen weights.
        frozen: (out_features, in_features) weights and biases; they get no gradient.
        factors: (rank, in_features) and (out_features, rank) a layer, float32; cast to x's dtype as autocast does.
        scales: alpha / rank times the adapter's weight.
    """
    flat = [factor for pair in factors for factor in pair]
    outputs: tuple[Tensor, ...] = _LoraLinears.apply(x, frozen, scales, *flat)
    return outputs


def merges(dtype: torch.dtype, *, rows: int, weight: Tensor, out_features: int, in_features: int) -> bool:
    """Whether forming ``W + ΔW`` is cheaper than a second path beside ``W``.

    Never below float32: a young ``ΔW`` is smaller than the rounding of ``W`` there. Forming reads and writes the
    weight, the second path reads and writes the output and, on the way back, the input gradient.
    """
    return dtype == torch.float32 and rows * (out_features + in_features) >= weight.numel()


class _LoraLinears(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, frozen: tuple[Frozen, ...], scales: tuple[float, ...], *factors: Tensor
    ) -> tuple[Tensor, ...]:
        rows = x.reshape(-1, x.shape[-1])
        downs, ups = factors[0::2], factors[1::2]
        merged = tuple(
            merges(x.dtype, rows=len(rows), weight=w, out_features=w.shape[0], in_features=w.shape[1])
            for w, _ in frozen
        )
        hidden = None if all(merged) else _stacked(downs, x.dtype) @ rows.t()
        outputs, start = [], 0
        for (weight, bias), merge, scale, down, up in zip(frozen, merged, scales, downs, ups, strict=True):
            end = start + len(down)
            if merge:
                y = functional.linear(x, torch.addmm(weight, up, down, alpha=scale), bias)
            else:
                assert hidden is not None
                y = functional.linear(x, weight, bias)
                y.view(-1, y.shape[-1]).addmm_(hidden[start:end].t(), _across(up, scale, x.dtype))
            outputs.append(y)
            start = end
        ctx.save_for_backward(x, hidden, *factors)
        ctx.frozen, ctx.scales, ctx.merged = frozen, scales, merged
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, hidden, *factors = ctx.saved_tensors
        rows, dtype = x.reshape(-1, x.shape[-1]), x.dtype
        downs, ups = factors[0::2], factors[1::2]
        grads = tuple(grad.reshape(-1, grad.shape[-1]) for grad in grads)
        stacked = _stacked(downs, dtype)
        inner = _joined(
            [_across(up, s, dtype) @ g.t() for g, up, s in zip(grads, ups, ctx.scales, strict=True)]
        )
        d_stacked = (inner @ rows).float()
        if hidden is None:
            hidden = stacked @ rows.t()
        d_x = _input_gradient(ctx, grads, downs, ups, inner) if ctx.needs_input_grad[0] else None
        d_factors: list[Tensor] = []
        start = 0
        for grad, scale, down in zip(grads, ctx.scales, downs, strict=True):
            end = start + len(down)
            d_factors += [d_stacked[start:end], (hidden[start:end] @ grad).t().float() * scale]
            start = end
        return None if d_x is None else d_x.view(x.shape), None, None, *d_factors


def _input_gradient(
    ctx: Any, grads: tuple[Tensor, ...], downs: list[Tensor], ups: list[Tensor], inner: Tensor
) -> Tensor:
    """Σ grad_i @ (W_i + scale_i · up_i down_i), (rows, in_features)."""
    total: Tensor | None = None
    start = 0
    for grad, (weight, _), merge, scale, down, up in zip(
        grads, ctx.frozen, ctx.merged, ctx.scales, downs, ups, strict=True
    ):
        end = start + len(down)
        whole = torch.addmm(weight, up, down, alpha=scale) if merge else weight
        total = grad @ whole if total is None else total.addmm_(grad, whole)
        if not merge:
            total.addmm_(inner[start:end].t(), down.to(grad.dtype))
        start = end
    assert total is not None
    return total


def _stacked(downs: list[Tensor] | tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
    return _joined(downs).to(dtype)


def _across(up: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """``scale · upᵀ``, (rank, out_features)."""
    return (up.t() * scale).to(dtype).contiguous()


def _joined(parts: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(tuple(parts))
