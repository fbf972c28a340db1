"""Reference pictures row by row: what an IP-Adapter adds to the cross-attention of some rows of a batch.

A reference adds ``scale · Attention(q, K_ip, V_ip)`` to what cross-attention makes of the text, before the layer's
output projection. While a plan is active, hooks take each layer's queries and add what the rows' references give;
other rows are not touched, and afterwards nothing is left on the model.

Source: Ye et al. 2023, arXiv:2308.06721, section 3.2.
"""

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from detour.adapters.blocks import BlockWeight
from detour.errors import AdapterError, ConfigError, nearest

_NUMBERS = itertools.count()


def cross_attentions(network: nn.Module) -> dict[str, nn.Module]:
    """Path → cross-attention module of a UNet, in the order in which IP-Adapter files number them.

    Args:
        network: a diffusers UNet; on the meta device its shapes are enough.
    """
    processors: Any = getattr(network, "attn_processors", {})
    paths = [name.removesuffix(".processor") for name in processors if name.endswith(".attn2.processor")]
    return {path: network.get_submodule(path) for path in paths}


@dataclass(frozen=True, eq=False)
class PreparedReference:
    """A picture as the rows of a batch see it: keys and values for every cross-attention.

    Attributes:
        states: cross-attention → keys and values, (2, heads, tokens, head width) each: of no picture, of the picture.
        paths: path of each of them in the network.
        number: no other prepared reference of the process has it.
    """

    states: Mapping[nn.Module, tuple[Tensor, Tensor]]
    paths: Mapping[nn.Module, str]
    number: int = field(default_factory=lambda: next(_NUMBERS))

    @property
    def num_bytes(self) -> int:
        """Memory that keys and values take, in bytes."""
        return sum(t.numel() * t.element_size() for pair in self.states.values() for t in pair)


@dataclass(frozen=True, eq=False)
class RowReference:
    """A reference of some rows, with its strength.

    Attributes:
        reference: keys and values.
        strength: what is added is multiplied with it; 0 adds nothing.
        blocks: (block, factor) on the strength there; blocks that are not named have 1.
    """

    reference: PreparedReference
    strength: float
    blocks: tuple[BlockWeight, ...] = ()

    def strength_at(self, attention: nn.Module) -> float:
        """The strength in one cross-attention."""
        return self.strength * factor_of(self.reference.paths[attention], self.blocks)


def names_of_blocks(path: str) -> tuple[str, ...]:
    """``up_blocks.0.attentions.1.…`` → ``("up.0.1", "up.0", "up")``: how a cross-attention is named, exactest first."""
    words = path.split(".")
    if words[0] == "mid_block":
        return ("mid",)
    side, block, attention = words[0].removesuffix("_blocks"), words[1], words[3]
    return (f"{side}.{block}.{attention}", f"{side}.{block}", side)


def factor_of(path: str, blocks: Sequence[BlockWeight]) -> float:
    """The factor that (block, factor) pairs give a cross-attention; the exactest name counts, and 1 where none fits."""
    chosen = dict(blocks)
    return next((chosen[name] for name in names_of_blocks(path) if name in chosen), 1.0)


def check_blocks(network: nn.Module, blocks: Sequence[BlockWeight]) -> None:
    """Raise for a block that has no cross-attention.

    Raises:
        ConfigError: names the nearest.
    """
    known = {name for path in cross_attentions(network) for name in names_of_blocks(path)}
    for block, _ in blocks:
        if block not in known:
            raise ConfigError(
                f"reference blocks: the base has no cross-attention in '{block}'.{nearest(block, sorted(known))} It "
                f"has {', '.join(sorted(known))}."
            )


def prepare_reference(
    network: nn.Module, tokens: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor]
) -> PreparedReference:
    """Make keys and values of a picture's tokens for every cross-attention of a network.

    Args:
        network: a diffusers UNet.
        tokens: (2, T, text width): of no picture, of the picture; on the network's device, in its dtype.
        keys: (hidden, text width) of each cross-attention in order.
        values: as ``keys``.

    Raises:
        AdapterError: another number of layers, or another width.
    """
    places = cross_attentions(network)
    if len(places) != len(keys):
        raise AdapterError(
            f"the IP-Adapter has keys for {len(keys)} cross-attentions, and the network has {len(places)}. Use one "
            "that was made for the base's family."
        )
    states: dict[nn.Module, tuple[Tensor, Tensor]] = {}
    for (path, module), key, value in zip(places.items(), keys, values, strict=True):
        attention: Any = module
        if key.shape[0] != attention.inner_dim or key.shape[1] != tokens.shape[-1]:
            raise AdapterError(
                f"the IP-Adapter's keys for '{path}' map {key.shape[1]} to {key.shape[0]}, and the layer has "
                f"{tokens.shape[-1]} to {attention.inner_dim}. Use one that was made for the base's family."
            )
        states[module] = (
            by_heads(functional.linear(tokens, key.to(tokens)), attention.heads),
            by_heads(functional.linear(tokens, value.to(tokens)), attention.heads),
        )
    return PreparedReference(states=states, paths={module: path for path, module in places.items()})


def by_heads(states: Tensor, heads: int) -> Tensor:
    """(N, T, heads · width) → (N, heads, T, width)."""
    return states.unflatten(-1, (heads, -1)).transpose(1, 2)


@dataclass(frozen=True, eq=False)
class _Added:
    """What one group of rows gets in one cross-attention: keys and values of its rows, (num_rows, heads, T, width)."""

    rows: slice
    keys: Tensor
    values: Tensor
    strength: float


@dataclass(frozen=True, eq=False)
class ReferencePlan:
    """What the rows of one batch get from their references, cross-attention by cross-attention."""

    added: Mapping[nn.Module, Sequence[_Added]]

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Add the rows' references to every forward pass inside the block."""
        with contextlib.ExitStack() as hooks:
            for attention, added in self.added.items():
                hooks.enter_context(adding(attention, _sum_of(added)))
            yield


NO_REFERENCES = ReferencePlan({})


def plan_references(groups: Sequence[tuple[int, Sequence[RowReference]]]) -> ReferencePlan:
    """Sort the references of a batch's rows by cross-attention.

    Of a picture's rows the second one (the only one without guidance) sees the picture; what guidance steers away from,
    and further texts, see what the adapter's kind has for no picture.

    Args:
        groups: number of rows and references of each picture of the batch, in order.
    """
    found: dict[nn.Module, list[_Added]] = {}
    start = 0
    for num_rows, references in groups:
        sides = [1] if num_rows == 1 else [0, 1, *[0] * (num_rows - 2)]
        for one in references:
            for attention, (keys, values) in one.reference.states.items():
                strength = one.strength_at(attention)
                if strength != 0:
                    rows = slice(start, start + num_rows)
                    found.setdefault(attention, []).append(_Added(rows, keys[sides], values[sides], strength))
        start += num_rows
    return ReferencePlan(found)


def _sum_of(added: Sequence[_Added]) -> Any:
    def add(queries: Tensor, mixed: Tensor) -> Tensor:
        mixed = mixed.clone()
        for one in added:
            heads = one.keys.shape[1]
            found = attend(queries[one.rows], one.keys, one.values, heads).to(mixed.dtype)
            mixed[one.rows] += one.strength * found
        return mixed

    return add


def attend(queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """Attention of queries (N, L, inner) to keys and values (N, heads, T, width): (N, L, inner)."""
    found = functional.scaled_dot_product_attention(by_heads(queries, heads), keys, values)
    return found.transpose(1, 2).flatten(2)


@contextlib.contextmanager
def adding(attention: nn.Module, add: Any) -> Iterator[None]:
    """Let ``add(queries, mixed)`` change what a cross-attention hands to its output projection.

    Args:
        attention: a diffusers ``Attention``; its queries come with whatever stands beside ``to_q``.
        add: (N, L, inner) queries and mixed values → mixed values.
    """
    layer: Any = attention
    asked: list[Tensor] = []

    def keep(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
        asked[:] = [output]

    def change(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (add(asked.pop(), args[0]), *args[1:])

    handles = [layer.to_q.register_forward_hook(keep), layer.to_out[0].register_forward_pre_hook(change)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
