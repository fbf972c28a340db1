"""Train plain LoRA through functions of our own where PEFT's modules do more than a frozen base needs.

The factors stay PEFT's parameters, so files, strength and detaching know nothing of this. A layer looks at each call
whether it is served; everything else, and every pass without gradients, goes through PEFT's own forward.
"""

from collections.abc import Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional

from detour.adapters.attach import Attached
from detour.adapters.fused_conv import lora_conv, slides_plainly, window_of
from detour.adapters.fused_linear import Frozen, lora_linears


class FusedForward:
    """Stands in the place of one PEFT layer's ``forward``."""

    def __init__(self, layer: Any, name: str) -> None:
        self.layer = layer
        self.name = name

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not args and not kwargs and self.serves(x):
            return self._fused(x.to(self.layer.base_layer.weight.dtype))
        output: Tensor = type(self.layer).forward(self.layer, x, *args, **kwargs)
        return output

    def serves(self, x: Tensor) -> bool:
        """Whether this call is plain LoRA in training, by this adapter alone, in the dtype of the frozen weight."""
        layer = self.layer
        if not torch.is_grad_enabled() or layer.disable_adapters or layer.merged_adapters:
            return False
        if list(layer.active_adapters) != [self.name] or self.name in layer.lora_variant:
            return False
        base, dropout = layer.base_layer, layer.lora_dropout[self.name]
        return (
            not (isinstance(dropout, nn.Dropout) and dropout.training and dropout.p > 0)
            and not _has_forward_hook(base)
            and not base.weight.requires_grad
            and product_dtype(x) == base.weight.dtype
        )

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        return self.layer.lora_A[self.name].weight, self.layer.lora_B[self.name].weight

    @property
    def scale(self) -> float:
        return float(self.layer.scaling[self.name])

    def _fused(self, x: Tensor) -> Tensor:
        base, (down, up) = self.layer.base_layer, self.factors
        if isinstance(base, nn.Conv2d):
            return lora_conv(x, (base.weight, base.bias), window_of(base), down, up, self.scale)
        return lora_linears(x, ((base.weight, base.bias),), ((down, up),), (self.scale,))[0]


def use_fused(attached: Attached) -> int:
    """Let every layer of a freshly attached plain LoRA train through our own functions where it can be served.

    Returns:
        The number of layers that can; the others keep PEFT's forward.
    """
    served = 0
    for layer in attached.peft_layers:
        if _is_servable(layer, attached.name):
            layer.forward = FusedForward(layer, attached.name)
            served += 1
    return served


def project_together(modules: Sequence[nn.Module], x: Tensor) -> tuple[Tensor, ...]:
    """The answers of several linear modules to one input; adapted ones that are served share one function."""
    fused = [module.__dict__.get("forward") for module in modules]
    if all(
        isinstance(forward, FusedForward)
        and isinstance(forward.layer.base_layer, nn.Linear)
        and not _has_forward_hook(forward.layer)
        and forward.serves(x)
        for forward in fused
    ):
        layers: list[FusedForward] = [forward for forward in fused if forward is not None]
        bases = [forward.layer.base_layer for forward in layers]
        return lora_linears(
            x.to(bases[0].weight.dtype),
            tuple((base.weight, base.bias) for base in bases),
            tuple(forward.factors for forward in layers),
            tuple(forward.scale for forward in layers),
        )
    return tuple(module(x) for module in modules)


def project_halves(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the second half of a linear module's answer, each laid out for itself.

    What follows works on whole halves, and on a half of each row it takes up to 2.5 times as long.
    """
    forward = module.__dict__.get("forward")
    if isinstance(forward, FusedForward) and not _has_forward_hook(forward.layer) and forward.serves(x):
        base, (down, up) = forward.layer.base_layer, forward.factors
        (first, second), (up_first, up_second) = _halves(base), up.chunk(2)
        both = (down, up_first), (down, up_second)
        halves = lora_linears(x.to(base.weight.dtype), (first, second), both, (forward.scale,) * 2)
        return halves[0], halves[1]
    if _is_plain_linear(module) and not _has_forward_hook(module) and not module.weight.requires_grad:
        first, second = _halves(module)
        return functional.linear(x, *first), functional.linear(x, *second)
    value, gate = module(x).chunk(2, dim=-1)
    return value, gate


def _halves(linear: nn.Linear) -> tuple[Frozen, Frozen]:
    biases = (None, None) if linear.bias is None else linear.bias.chunk(2)
    first, second = linear.weight.chunk(2)
    return (first, biases[0]), (second, biases[1])


def _has_forward_hook(module: Any) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _is_servable(layer: Any, name: str) -> bool:
    """What cannot change between calls: plain LoRA on a plain linear layer or convolution."""
    base = layer.base_layer
    if name not in layer.lora_A or name in layer.lora_variant or layer.lora_B[name].bias is not None:
        return False
    if type(base) is nn.Conv2d:
        return slides_plainly(base)
    return _is_plain_linear(base)


def _is_plain_linear(module: nn.Module) -> TypeGuard[nn.Linear]:
    """A quantised weight is a tensor of another class: its layer computes as its library wants it to."""
    return type(module) is nn.Linear and type(module.weight) is nn.Parameter


def product_dtype(x: Tensor) -> torch.dtype | None:
    """Dtype in which a matrix product with ``x`` runs here; None where PEFT's own casts decide."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return torch.float32 if x.dtype == torch.float32 else None
