"""What an adapter does to the weights: ``ΔW``, merging it into a base, and comparing two adapters by it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from detour.adapters.adapter import Adapter
from detour.adapters.layers import DoraLayer, Layer, lora_delta
from detour.adapters.places import find_layer
from detour.errors import ShapeMismatch

__all__ = ["Merged", "largest_relative_difference", "lora_delta", "merge_into"]


@dataclass
class Merged:
    """A merge that can be taken back; holds the touched weights as they were, so that undoing is exact."""

    originals: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def undo(self) -> None:
        """Put the weights back, bit for bit."""
        for weight, original in self.originals:
            weight.data.copy_(original)
        self.originals.clear()


def merge_into(model_parts: Mapping[str, nn.Module], adapter: Adapter, weight: float = 1.0) -> Merged:
    """Add ``weight · ΔW`` of every layer to the base's own weights, in place.

    The sum is made in float32 and kept in the base's dtype. A DoRA's ΔW is that of the weights as they stand
    now, with what was merged before.

    Args:
        model_parts: ``{"unet": …, "text_encoder": …}``; must have every part that the adapter has.
        adapter: what is merged.
        weight: strength; 1 is the adapter as trained.

    Returns:
        An object whose ``undo()`` restores the weights bit for bit.

    Raises:
        AdapterError: a part or a layer is not there.
        ShapeMismatch: a layer has another width; nothing was changed.
    """
    changes: list[tuple[Tensor, Tensor]] = []
    for key, layer in adapter.layers.items():
        target = find_layer(model_parts, key, layer)
        delta = layer.delta(target.weight).reshape(target.weight.shape)
        changes.append((target.weight, delta))
    merged = Merged()
    with torch.no_grad():
        for parameter, delta in changes:
            merged.originals.append((parameter, parameter.detach().clone()))
            total = parameter.detach().float() + weight * delta.to(parameter.device)
            parameter.data.copy_(total.to(parameter.dtype))
    return merged


def largest_relative_difference(a: Adapter, b: Adapter) -> float:
    """Largest ``‖ΔWa - ΔWb‖ / ‖ΔWa‖`` over the layers: is a converted file still the same adapter?

    A layer that one of them lacks counts as zero there; 0 where both are zero, infinite where only ``a`` is.
    Of DoRA layers the change of direction and the magnitudes are compared.
    """
    worst = 0.0
    for key in sorted(set(a.layers) | set(b.layers)):
        worst = max(worst, _relative_difference(a, b, key))
    return worst


def _relative_difference(a: Adapter, b: Adapter, key: str) -> float:
    first, second = a.layers.get(key), b.layers.get(key)
    if isinstance(first, DoraLayer) or isinstance(second, DoraLayer):
        return _difference_of_doras(first, second, key)
    return _difference(_dense(first), _dense(second), key)


def _difference_of_doras(first: Layer | None, second: Layer | None, key: str) -> float:
    """Their ΔW needs a base: the change of direction and the magnitudes are compared instead."""
    if first is None:
        return float("inf")
    if not (isinstance(first, DoraLayer) and isinstance(second, DoraLayer)):
        return 1.0 if second is None else float("inf")
    return max(
        _difference(first.change.delta(), second.change.delta(), key),
        _difference(first.magnitude, second.magnitude, key),
    )


def _difference(first: Tensor | None, second: Tensor | None, key: str) -> float:
    if first is None:
        return 0.0 if second is None or not second.any() else float("inf")
    if second is None:
        return 1.0 if first.any() else 0.0
    if first.numel() != second.numel():
        raise ShapeMismatch(
            f"{key}: {tuple(first.shape)} against {tuple(second.shape)} in the other adapter."
        )
    difference = float((first.flatten() - second.flatten()).norm())
    norm = float(first.norm())
    return 0.0 if difference == 0.0 else (difference / norm if norm > 0.0 else float("inf"))


def _dense(layer: Layer | None) -> Tensor | None:
    return None if layer is None else layer.delta()
