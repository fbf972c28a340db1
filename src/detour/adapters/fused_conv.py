"""Plain LoRA on a frozen convolution as one autograd function.

A convolution with ``rank`` channels wastes most of a processor's lanes, and autograd makes three of them. Here the
k × k taps of ``down`` are the rows of one matrix: shifts (fold, unfold) are done on maps of ``rank`` channels, and the
work on the wide input is a plain matrix product.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from detour.adapters.fused_linear import Frozen, merges

NARROW_RANK = 8
"""Up to this rank the taps are cheaper as matrix products, above it as convolutions (measured, one core)."""


@dataclass(frozen=True)
class Window:
    """How a convolution slides. No dilation, no groups, padding by zeros."""

    stride: tuple[int, int]
    padding: tuple[int, int]


def slides_plainly(conv: nn.Conv2d) -> bool:
    """Whether :class:`Window` describes it."""
    padding = conv.padding
    return (
        conv.groups == 1
        and conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
        and not isinstance(padding, str)
        and all(p < k for p, k in zip(padding, conv.kernel_size, strict=True))
    )


def window_of(conv: nn.Conv2d) -> Window:
    """Read the kernel, stride and padding of a convolution that :func:`slides_plainly` accepts."""
    assert not isinstance(conv.padding, str)
    (sy, sx), (py, px) = conv.stride, conv.padding
    return Window((sy, sx), (py, px))


def lora_conv(x: Tensor, frozen: Frozen, window: Window, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """``conv(x, W) + b + scale · up · conv(x, down)``.

    Args:
        x: (N, C, H, W), in the dtype of the frozen weight.
        frozen: (out, C, k, k) and bias; they get no gradient.
        window: of the frozen layer; ``down`` slides in the same way.
        down: (rank, C, k, k) float32.
        up: (out, rank, 1, 1) float32.
        scale: alpha / rank times the adapter's weight.
    """
    output: Tensor = _LoraConv.apply(x, frozen, window, scale, down, up)
    return output


class _LoraConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, frozen: Frozen, window: Window, scale: float, down: Tensor, up: Tensor
    ) -> Tensor:
        weight, bias = frozen
        hidden: Tensor | None = None
        positions = x.shape[0] * x.shape[2] * x.shape[3] // (window.stride[0] * window.stride[1])
        ctx.merged = merges(
            x.dtype, rows=positions, weight=weight, out_features=weight.shape[0], in_features=x.shape[1]
        )
        if ctx.merged:
            y = torch.conv2d(x, _merged(weight, down, up, scale), bias, window.stride, window.padding)
        else:
            hidden = _low(x, down.to(x.dtype), window)
            y = torch.conv2d(x, weight, bias, window.stride, window.padding)
            factor = (up * scale).to(x.dtype).flatten(1)
            y.view(*y.shape[:2], -1).baddbmm_(factor.expand(len(y), *factor.shape), hidden.flatten(2))
        ctx.save_for_backward(x, hidden, down, up)
        ctx.frozen, ctx.window, ctx.scale = frozen, window, scale
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, hidden, down, up = ctx.saved_tensors
        weight, window = ctx.frozen[0], ctx.window
        wide = grad.flatten(2)
        across = (up.flatten(1).t() * ctx.scale).to(x.dtype)
        inner = torch.bmm(across.expand(len(x), *across.shape), wide).unflatten(2, grad.shape[2:])
        spread = _spread(inner, window, kernel=weight.shape[2:], size=x.shape[2:])
        d_taps = torch.bmm(spread, x.flatten(2).transpose(1, 2)).sum(0, dtype=torch.float32)
        if hidden is None:
            hidden = _low(x, down.to(x.dtype), window)
        d_up = torch.bmm(hidden.flatten(2), wide.transpose(1, 2)).sum(0, dtype=torch.float32).t()
        d_x = None
        if ctx.needs_input_grad[0]:
            whole = _merged(weight, down, up, ctx.scale) if ctx.merged else weight
            d_x = conv_input_gradient(grad, x.shape, whole, window)
            if not ctx.merged:
                taps = _taps(down).to(x.dtype).t()
                d_x.view(*d_x.shape[:2], -1).baddbmm_(taps.expand(len(x), *taps.shape), spread)
        return d_x, None, None, None, _from_taps(d_taps, down.shape), (d_up * ctx.scale).reshape(up.shape)


def conv_input_gradient(grad: Tensor, shape: torch.Size, weight: Tensor, window: Window) -> Tensor:
    """What reaches the input of a convolution; ``shape`` is the input's, whose values are not needed."""
    inputs = grad.new_empty(shape)  # never read; expanded from one number it would be copied
    d_x: Tensor = torch.ops.aten.convolution_backward(
        grad,
        inputs,
        weight,
        None,
        window.stride,
        window.padding,
        (1, 1),
        False,
        (0, 0),
        1,
        (True, False, False),
    )[0]
    return d_x


def _merged(weight: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    return torch.addmm(weight.flatten(1), up.flatten(1), down.flatten(1), alpha=scale).view(weight.shape)


def _taps(down: Tensor) -> Tensor:
    """(rank, C, k, k) → (rank · k · k, C), each kernel turned by half a circle: so fold and unfold want it."""
    return down.flip(2, 3).permute(0, 2, 3, 1).reshape(-1, down.shape[1])


def _from_taps(taps: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of :func:`_taps`."""
    rank, channels, height, width = shape
    return taps.view(rank, height, width, channels).permute(0, 3, 1, 2).flip(2, 3)


def _low(x: Tensor, down: Tensor, window: Window) -> Tensor:
    """``conv(x, down)``: (N, rank, H', W')."""
    (ky, kx), (py, px) = down.shape[2:], window.padding
    narrow = (
        x.dtype == torch.float32
        and len(down) <= NARROW_RANK
        and window.stride == (1, 1)
        and (ky, kx) != (1, 1)
    )
    if not narrow:
        return torch.conv2d(x, down, None, window.stride, window.padding)
    maps = torch.conv2d(x, _taps(down)[:, :, None, None])  # each tap at each place, not yet shifted
    size = (x.shape[2] + 2 * py - ky + 1, x.shape[3] + 2 * px - kx + 1)
    return functional.fold(maps.flatten(2), size, (ky, kx), padding=(ky - 1 - py, kx - 1 - px))


def _spread(inner: Tensor, window: Window, *, kernel: torch.Size, size: torch.Size) -> Tensor:
    """Gradient of ``hidden`` for each tap, moved to the places of the input that the tap read.

    Returns:
        (N, rank · k · k, H · W), in the order of :func:`_taps`.
    """
    (ky, kx), (height, width) = kernel, size
    (sy, sx), (py, px) = window.stride, window.padding
    top, left = ky - 1 - py, kx - 1 - px
    if (ky, kx, sy, sx) == (1, 1, 1, 1):
        return inner.flatten(2)
    if (sy, sx) == (1, 1):
        return functional.unfold(inner, (ky, kx), padding=(top, left))
    canvas = inner.new_zeros(*inner.shape[:2], height + ky - 1, width + kx - 1)
    bottom, right = top + (inner.shape[2] - 1) * sy + 1, left + (inner.shape[3] - 1) * sx + 1
    canvas[:, :, top:bottom:sy, left:right:sx] = inner
    return functional.unfold(canvas, (ky, kx))
