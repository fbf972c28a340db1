"""Algorithms other than plain LoRA beside a frozen layer, for generation: a hook adds what ``ΔW`` adds.

PEFT has LoHa, LoKr and DoRA too, each with a wrapper of its own that the others cannot stand on, and its DoRA
at weight 0 is not the base. A hook on the frozen layer itself goes with any number of adapters of any kind.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from detour.adapters.layers import DoraLayer, Layer
from detour.adapters.trainable_layers import TrainableLayer


class FixedLayer:
    """One adapted layer; ``y = W x + b + weight · ΔW x``, where a DoRA's ``ΔW`` is that of the frozen weight."""

    def __init__(self, key: str, module: nn.Linear | nn.Conv2d, layer: Layer, *, name: str) -> None:
        self.key = key
        self.name = name
        self.layer = layer
        self.weight = 1.0
        self.active = True
        self._module = module
        self._there = layer  # the same, on the device of the last input
        self._handle = module.register_forward_hook(self._add)

    def remove(self) -> None:
        """Take the hook away: the plain layer answers again."""
        self._handle.remove()

    def _add(self, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if not self.active or self.weight == 0.0:
            return None
        x: Tensor = args[0]
        # ΔW is made anew for each call: kept, it would take as much memory as the base's own weights.
        change = self._delta(x.device).reshape(self._module.weight.shape) * self.weight
        if isinstance(self._module, nn.Conv2d):
            added = self._module._conv_forward(x.float(), change, None)
        else:
            added = functional.linear(x.float(), change)
        return (output.float() + added.float()).to(output.dtype)

    @torch.no_grad()
    def _delta(self, device: torch.device) -> Tensor:
        if next(iter(self._there.tensors.values())).device != device:
            self._there = moved(self.layer, device)
        return self._there.delta(self._module.weight)


def has_adapter_hook(module: nn.Module, name: str) -> bool:
    """Whether an adapter of this name has a hook on the module."""
    owners = (getattr(hook, "__self__", None) for hook in module._forward_hooks.values())
    return any(isinstance(owner, FixedLayer | TrainableLayer) and owner.name == name for owner in owners)


def moved(layer: Layer, device: torch.device) -> Layer:
    """The layer with its tensors on ``device``; the same object where they are there already."""
    there = {name: tensor.to(device) for name, tensor in layer.tensors.items()}
    if isinstance(layer, DoraLayer):
        return DoraLayer(change=moved(layer.change, device), magnitude=there["magnitude"])
    made: Any = type(layer)
    there_layer: Layer = made(alpha=layer.alpha, **there)
    return there_layer
