"""What an adapter does to the weights: ``ΔW``, merging it into a base, and comparing two adapters by it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from detour.adapters.adapter import Adapter
from detour.adapters.places import find_layer
from detour.errors import ShapeMismatch


def lora_delta(down: Tensor, up: Tensor, *, alpha: float) -> Tensor:
    """Dense weight change of one adapted layer: ``(alpha / rank) * up @ down``.

    Args:
        down: (rank, in_features) or (rank, in_channels, kh, kw), any float dtype.
        up: (out_features, rank) or (out_channels, rank, 1, 1), same device as ``down``.
        alpha: unitless; ``alpha == rank`` means no scaling.

    Returns:
        (out_features, in_features) or (out_channels, in_channels, kh, kw) in float32, because a merge adds
        many small terms.

    Raises:
        ShapeMismatch: the two factors disagree on the rank.

    Source: Hu et al. 2021, arXiv:2106.09685, section 4.1.
    """
    rank = down.shape[0]
    if up.ndim < 2 or up.shape[1] != rank:
        raise ShapeMismatch(
            f"down has rank {rank} (shape {tuple(down.shape)}), up has shape {tuple(up.shape)}."
        )
    product = up.float().flatten(1) @ down.float().flatten(1)
    return (product * (alpha / rank)).reshape(up.shape[0], *down.shape[1:])


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

    The sum is made in float32 and kept in the base's dtype.

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
        delta = lora_delta(layer.down, layer.up, alpha=layer.alpha).reshape(target.weight.shape)
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
    """
    worst = 0.0
    for key in sorted(set(a.layers) | set(b.layers)):
        worst = max(worst, _relative_difference(a, b, key))
    return worst


def _relative_difference(a: Adapter, b: Adapter, key: str) -> float:
    first, second = _delta(a, key), _delta(b, key)
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


def _delta(adapter: Adapter, key: str) -> Tensor | None:
    layer = adapter.layers.get(key)
    return None if layer is None else lora_delta(layer.down, layer.up, alpha=layer.alpha)
