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
        down = _joined(factors[0::2]).to(x.dtype)
        ups = [_across(up, scale, x.dtype) for up, scale in zip(factors[1::2], scales, strict=True)]
        merged = tuple(
            merges(x.dtype, rows=len(rows), weight=w, out_features=w.shape[0], in_features=w.shape[1])
            for w, _ in frozen
        )
        hidden = None if all(merged) else down @ rows.t()
        outputs, start = [], 0
        for (weight, bias), merge, up in zip(frozen, merged, ups, strict=True):
            end = start + len(up)
            if merge:
                y = functional.linear(x, torch.addmm(weight, up.t(), down[start:end]), bias)
            else:
                assert hidden is not None
                y = functional.linear(x, weight, bias)
                y.view(-1, y.shape[-1]).addmm_(hidden[start:end].t(), up)
            outputs.append(y)
            start = end
        ctx.save_for_backward(x, hidden, down, *ups)
        ctx.frozen, ctx.scales, ctx.merged = frozen, scales, merged
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, hidden, down, *ups = ctx.saved_tensors
        rows = x.reshape(-1, x.shape[-1])
        grads = tuple(grad.reshape(-1, grad.shape[-1]) for grad in grads)
        inner = _joined([up @ grad.t() for up, grad in zip(ups, grads, strict=True)])
        d_down = (inner @ rows).float()
        if hidden is None:
            hidden = down @ rows.t()
        d_x = _input_gradient(ctx, grads, down, ups, inner).view(x.shape) if ctx.needs_input_grad[0] else None
        d_factors: list[Tensor] = []
        start = 0
        for grad, scale, up in zip(grads, ctx.scales, ups, strict=True):
            end = start + len(up)
            d_up = (hidden[start:end] @ grad).t().float()
            d_factors += [d_down[start:end], d_up if scale == 1.0 else d_up * scale]
            start = end
        return d_x, None, None, *d_factors


def _input_gradient(
    ctx: Any, grads: tuple[Tensor, ...], down: Tensor, ups: list[Tensor], inner: Tensor
) -> Tensor:
    """Σ grad_i @ (W_i + scale_i · up_i down_i), (rows, in_features)."""
    total: Tensor | None = None
    start = 0
    for grad, (weight, _), merge, up in zip(grads, ctx.frozen, ctx.merged, ups, strict=True):
        end = start + len(up)
        whole = torch.addmm(weight, up.t(), down[start:end]) if merge else weight
        total = grad @ whole if total is None else total.addmm_(grad, whole)
        if not merge:
            total.addmm_(inner[start:end].t(), down[start:end])
        start = end
    assert total is not None
    return total


def _across(up: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """Multiply ``upᵀ`` by the scale: (rank, out_features)."""
    return (
        (up if scale == 1.0 else up * scale).t().to(dtype, memory_format=torch.contiguous_format, copy=True)
    )


def _joined(parts: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(tuple(parts))
