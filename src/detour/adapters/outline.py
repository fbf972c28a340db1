"""A layer without its numbers: what it is, in no memory."""

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from detour.adapters.layers import DoraLayer, Layer, LoraLayer
from detour.adapters.lycoris_layers import LohaLayer, LokrLayer


def outlined(layer: Layer) -> Layer:
    """The same kind, shapes, rank and alpha, with every tensor on the meta device."""
    if isinstance(layer, DoraLayer):
        return DoraLayer(change=outlined(layer.change), magnitude=_shape_of(layer.magnitude))
    if isinstance(layer, LoraLayer):
        return replace(layer, down=_shape_of(layer.down), up=_shape_of(layer.up))
    if isinstance(layer, LohaLayer | LokrLayer):
        found = {one.name: getattr(layer, one.name) for one in fields(layer)}
        shapes: dict[str, Any] = {
            name: _shape_of(value) for name, value in found.items() if isinstance(value, Tensor)
        }
        return replace(layer, **shapes)
    raise TypeError(f"{type(layer).__name__} has no outline")


def _shape_of(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="meta")
