"""The frozen parts of a UNet in training: nothing is kept for gradients that nobody asks for.

Autograd keeps the input of every convolution, because its formula for the weight needs it, even where the weight is
frozen; and normalisation, activation and gating keep each step's result. Here a frozen convolution keeps nothing, and a
norm with its activation, or a gate, keeps its input and makes the rest again on the way back. Without gradients, and
where a part is not of the plain kind, diffusers' own forward runs.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from detour.adapters.fused import product_dtype, project_halves
from detour.adapters.fused_conv import Window, conv_input_gradient, slides_plainly, window_of


def use_frozen_paths(unet: nn.Module) -> None:
    """Install the paths of this module in a UNet whose weights are frozen; each looks at every call if it serves."""
    from diffusers.models.activations import GEGLU
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.transformers.transformer_2d import Transformer2DModel

    for module in unet.modules():
        if type(module) is nn.Conv2d and slides_plainly(module):
            vars(module)["forward"] = FrozenConv(module)
        elif isinstance(module, ResnetBlock2D) and _is_plain_resnet(module):
            module.forward = FrozenResnet(module)
        elif isinstance(module, GEGLU):
            module.forward = FrozenGeglu(module)
        elif isinstance(module, Transformer2DModel) and module.is_input_continuous:
            module._operate_on_continuous_inputs = InTokens(module)


class FrozenConv:
    """``Conv2d.forward`` that keeps nothing of its input."""

    def __init__(self, conv: nn.Conv2d) -> None:
        self.conv = conv

    def __call__(self, x: Tensor) -> Tensor:
        conv = self.conv
        serves = x.requires_grad and torch.is_grad_enabled() and not conv.weight.requires_grad
        if serves and product_dtype(x) == conv.weight.dtype:
            output: Tensor = _Conv.apply(x.to(conv.weight.dtype), conv.weight, conv.bias, window_of(conv))
            return output
        return nn.Conv2d.forward(conv, x)


class FrozenResnet:
    """``ResnetBlock2D.forward`` of the kind that Stable Diffusion has."""

    def __init__(self, block: Any) -> None:
        self.block = block

    def __call__(self, x: Tensor, temb: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
        block = self.block
        if args or kwargs or not (torch.is_grad_enabled() and _serves_norm(block.norm1, x)):
            output: Tensor = type(block).forward(block, x, temb, *args, **kwargs)
            return output
        shift = None
        if temb is not None and block.time_emb_proj is not None:
            shift = block.time_emb_proj(functional.silu(temb))[:, :, None, None]
        if self._is_frozen(x, shift):
            whole: Tensor = _Resnet.apply(x, shift, block)
            return whole
        hidden = block.conv1(_norm_silu(block.norm1, x))
        hidden = hidden if shift is None else hidden + shift
        hidden = block.conv2(_norm_silu(block.norm2, hidden))
        return (x if block.conv_shortcut is None else block.conv_shortcut(x)) + hidden

    def _is_frozen(self, x: Tensor, shift: Tensor | None) -> bool:
        """Whether nothing inside learns: no adapter, no hook, no gradient but the input's."""
        convs = [self.block.conv1, self.block.conv2, self.block.conv_shortcut]
        return (
            x.requires_grad
            and not (shift is not None and shift.requires_grad)
            and product_dtype(x) == x.dtype
            and all(_is_frozen_conv(conv, x.dtype) for conv in convs if conv is not None)
        )


class FrozenGeglu:
    """``GEGLU.forward`` that keeps the projection alone."""

    def __init__(self, geglu: Any) -> None:
        self.geglu = geglu

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args or kwargs or not torch.is_grad_enabled():
            output: Tensor = type(self.geglu).forward(self.geglu, x, *args, **kwargs)
            return output
        gated: Tensor = _Geglu.apply(*project_halves(self.geglu.proj, x))
        return gated


class InTokens:
    """Pictures to rows of tokens as diffusers does it, laid out so that everything after it reads memory in order."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, hidden_states: Tensor) -> tuple[Tensor, int]:
        tokens, width = type(self.model)._operate_on_continuous_inputs(self.model, hidden_states)
        return tokens.contiguous(), width


def _is_plain_resnet(block: Any) -> bool:
    return (
        block.upsample is None
        and block.downsample is None
        and block.time_embedding_norm == "default"
        and not block.skip_time_act
        and isinstance(block.nonlinearity, nn.SiLU)
        and block.output_scale_factor == 1.0
        and block.dropout.p == 0.0
    )


def _is_frozen_conv(conv: nn.Module, dtype: torch.dtype) -> bool:
    return (
        isinstance(vars(conv).get("forward"), FrozenConv)
        and isinstance(conv, nn.Conv2d)
        and not (conv.weight.requires_grad or conv._forward_hooks or conv._forward_pre_hooks)
        and conv.weight.dtype == dtype
    )


def _serves_norm(norm: nn.GroupNorm, x: Tensor) -> bool:
    return not norm.weight.requires_grad and x.dtype == norm.weight.dtype


def _norm_silu(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    if not x.requires_grad or not _serves_norm(norm, x):
        return functional.silu(norm(x))
    output: Tensor = _NormSilu.apply(x, norm)
    return output


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, window: Window) -> Tensor:
        ctx.shape, ctx.weight, ctx.window = x.shape, weight, window
        return torch.conv2d(x, weight, bias, window.stride, window.padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        return conv_input_gradient(grad, ctx.shape, ctx.weight, ctx.window), None, None, None


class _NormSilu(torch.autograd.Function):
    """``silu(group_norm(x))`` of (N, C, H, W)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: nn.GroupNorm) -> Tensor:
        y, mean, rstd = _activated(x, norm)
        ctx.save_for_backward(x, mean, rstd)
        ctx.norm = norm
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, mean, rstd = ctx.saved_tensors
        return _through_activated(grad, x, mean, rstd, ctx.norm), None


class _Resnet(torch.autograd.Function):
    """A residual block in which nothing learns; it keeps what enters its two norms."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shift: Tensor | None, block: Any) -> Tensor:
        hidden, mean1, rstd1 = _activated(x, block.norm1)
        middle = _convolved(hidden, block.conv1)
        if shift is not None:
            middle += shift
        hidden, mean2, rstd2 = _activated(middle, block.norm2)
        output = _convolved(hidden, block.conv2)
        output += x if block.conv_shortcut is None else _convolved(x, block.conv_shortcut)
        ctx.save_for_backward(x, mean1, rstd1, middle, mean2, rstd2)
        ctx.block = block
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, mean1, rstd1, middle, mean2, rstd2 = ctx.saved_tensors
        block = ctx.block
        d = _through_conv(grad, middle.shape, block.conv2)
        d = _through_activated(d, middle, mean2, rstd2, block.norm2)
        d = _through_conv(d, x.shape, block.conv1)
        d = _through_activated(d, x, mean1, rstd1, block.norm1)
        d += grad if block.conv_shortcut is None else _through_conv(grad, x.shape, block.conv_shortcut)
        return d, None, None


def _convolved(x: Tensor, conv: nn.Conv2d) -> Tensor:
    window = window_of(conv)
    return torch.conv2d(x, conv.weight, conv.bias, window.stride, window.padding)


def _through_conv(grad: Tensor, shape: torch.Size, conv: nn.Conv2d) -> Tensor:
    shape = torch.Size((shape[0], conv.in_channels, *shape[2:]))
    return conv_input_gradient(grad, shape, conv.weight, window_of(conv))


def _activated(x: Tensor, norm: nn.GroupNorm) -> tuple[Tensor, Tensor, Tensor]:
    """``silu(norm(x))`` with the mean and the inverse deviation of each group."""
    normed, mean, rstd = torch.native_group_norm(
        x, norm.weight, norm.bias, *_sizes(x), norm.num_groups, norm.eps
    )
    return functional.silu(normed, inplace=True), mean, rstd


def _through_activated(grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, norm: nn.GroupNorm) -> Tensor:
    sizes, groups = _sizes(x), norm.num_groups
    normed = torch.native_group_norm(x, norm.weight, norm.bias, *sizes, groups, norm.eps)[0]
    d_normed = torch.ops.aten.silu_backward(grad, normed)
    # The kernel wants both in one layout.
    nhwc = x.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if nhwc else torch.contiguous_format
    x, d_normed = x.contiguous(memory_format=layout), d_normed.contiguous(memory_format=layout)
    d_x: Tensor = torch.ops.aten.native_group_norm_backward(
        d_normed, x, mean, rstd, norm.weight, *sizes, groups, (True, False, False)
    )[0]
    return d_x


def _sizes(x: Tensor) -> tuple[int, int, int]:
    return x.shape[0], x.shape[1], x.shape[2:].numel()


class _Geglu(torch.autograd.Function):
    """``value · gelu(gate)``. Source: Shazeer 2020, arXiv:2002.05202."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gate: Tensor) -> Tensor:
        ctx.save_for_backward(value, gate)
        return functional.gelu(gate).mul_(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        value, gate = ctx.saved_tensors
        d_gate = grad * value
        torch.ops.aten.gelu_backward.grad_input(d_gate, gate, grad_input=d_gate)
        return functional.gelu(gate).mul_(grad), d_gate
