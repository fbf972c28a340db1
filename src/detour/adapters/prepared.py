"""A finished adapter made ready for drawing row by row: checked against the models, padded and on their device."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from detour.adapters.adapter import Adapter, Words, part_of
from detour.adapters.fixed_layers import moved
from detour.adapters.layers import DoraLayer, Layer, LoraLayer, output_norms
from detour.adapters.places import find_layer
from detour.errors import AdapterError

RANK_CLASSES = (4, 8, 16, 32, 64, 128)
"""Ranks are padded with zeros to the next of these, so that adapters of near ranks share one matrix product."""

Module = nn.Linear | nn.Conv2d

_NUMBERS = itertools.count()


@dataclass(frozen=True, eq=False)
class LowRank:
    """The change of one layer in two factors, with the scale in ``up``: plain LoRA, and DoRA around it.

    Attributes:
        down: float32, (R, in) for Linear, (R, in, kh, kw) for Conv2d; R is the padded rank.
        up: float32, (out, R).
        growth: float32, (out,), by which a DoRA stretches each of the frozen layer's outputs, less one; else None.
    """

    down: Tensor
    up: Tensor
    growth: Tensor | None = None

    @property
    def num_bytes(self) -> int:
        """Memory that the factors take, in bytes."""
        return sum(t.numel() * t.element_size() for t in (self.down, self.up, self.growth) if t is not None)


@dataclass(frozen=True, eq=False)
class Dense:
    """A layer whose change of weight is made anew in each pass, because it is no product of two factors."""

    layer: Layer

    @property
    def num_bytes(self) -> int:
        """Memory of the layer's tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.layer.tensors.values())


@dataclass(frozen=True, eq=False)
class PreparedAdapter:
    """An adapter as the rows of a batch use it; nothing of it changes while it is in use.

    Attributes:
        changes: part of the base → layer of that part's model → the change.
        words: new words of the adapter.
        num_bytes: memory that it takes.
        number: no other prepared adapter of the process has it.
    """

    changes: Mapping[str, Mapping[Module, LowRank | Dense]]
    words: Words
    num_bytes: int
    number: int = field(default_factory=lambda: next(_NUMBERS))

    @property
    def rank(self) -> int:
        """The largest padded rank of its layers; 0 where none is in two factors."""
        layers = (one for part in self.changes.values() for one in part.values())
        return max((one.down.shape[0] for one in layers if isinstance(one, LowRank)), default=0)


@torch.no_grad()
def prepare(models: Mapping[str, nn.Module], adapter: Adapter) -> PreparedAdapter:
    """Check an adapter against the models and bring its factors into the form that mixed rows read.

    Args:
        models: ``{"unet": …, "text_encoder": …}``; must have every part that the adapter has.
        adapter: its tensors are copied.

    Raises:
        AdapterError: no layers and no words, or a part or layer that is not there.
        ShapeMismatch: a layer has another width.
    """
    if not adapter.layers and not adapter.words:
        raise AdapterError("the adapter has no layers, so there is nothing to draw with.")
    modules = {key: find_layer(models, key, layer) for key, layer in adapter.layers.items()}
    changes: dict[str, dict[Module, LowRank | Dense]] = {}
    for key, layer in adapter.layers.items():
        changes.setdefault(part_of(key), {})[modules[key]] = _change(modules[key], layer)
    num_bytes = sum(change.num_bytes for part in changes.values() for change in part.values())
    words = {
        word: {part: vectors.clone() for part, vectors in parts.items()}
        for word, parts in adapter.words.items()
    }
    return PreparedAdapter(changes=changes, words=words, num_bytes=num_bytes)


def rank_class(rank: int) -> int:
    """The padded rank: the next of :data:`RANK_CLASSES`, above them the next multiple of the largest."""
    largest = RANK_CLASSES[-1]
    return next((size for size in RANK_CLASSES if rank <= size), -(-rank // largest) * largest)


def _change(module: Module, layer: Layer) -> LowRank | Dense:
    device = module.weight.device
    grouped = isinstance(module, nn.Conv2d) and module.groups > 1
    inner = layer.change if isinstance(layer, DoraLayer) else layer
    if grouped or not isinstance(inner, LoraLayer):
        return Dense(moved(layer, device))
    down = inner.down.detach().to(device, torch.float32)
    up = inner.up.detach().to(device, torch.float32).flatten(1) * inner.scale
    growth = None
    if isinstance(layer, DoraLayer):
        frozen = module.weight.detach().float()
        stretch = layer.magnitude.to(device) / output_norms(
            frozen + inner.delta().to(device).reshape(frozen.shape)
        )
        up, growth = up * stretch[:, None], stretch - 1
    missing = rank_class(inner.rank) - inner.rank
    down = functional.pad(down, (*[0] * (2 * down.ndim - 1), missing)).clone()
    return LowRank(down, functional.pad(up, (0, missing)).clone(), growth)
