"""A layer with other tensors in the same places: without its numbers, or rounded as a file rounds them."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from detour.adapters.layers import DoraLayer, Layer, LoraLayer
from detour.adapters.lycoris_layers import LohaLayer, LokrLayer


def on_meta(layer: Layer) -> Layer:
    """Copy a layer's kind, shapes, rank and alpha, with every tensor on the meta device."""
    return with_tensors(layer, lambda tensor: torch.empty_like(tensor, device="meta"))


def rounded(layer: Layer, dtype: torch.dtype) -> Layer:
    """What is left of the layer when its tensors are kept in ``dtype``, in float32 again."""
    if dtype == torch.float32:
        return layer
    return with_tensors(layer, lambda tensor: tensor.to(dtype).float())


def with_tensors(layer: Layer, change: Callable[[Tensor], Tensor]) -> Layer:
    """Copy a layer's kind and alpha, with ``change(tensor)`` in place of every tensor.

    Raises:
        TypeError: a kind that is not known here.
    """
    if isinstance(layer, DoraLayer):
        return DoraLayer(change=with_tensors(layer.change, change), magnitude=change(layer.magnitude))
    if isinstance(layer, LoraLayer):
        return replace(layer, down=change(layer.down), up=change(layer.up))
    if isinstance(layer, LohaLayer | LokrLayer):
        found = {one.name: getattr(layer, one.name) for one in fields(layer)}
        changed: dict[str, Any] = {
            name: change(value) for name, value in found.items() if isinstance(value, Tensor)
        }
        return replace(layer, **changed)
    raise TypeError(f"{type(layer).__name__} is no kind of layer that is known here")
