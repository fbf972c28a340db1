"""Adapters row by row: one forward pass in which every row of the batch has adapters of its own.

A plan says which rows have which adapters at which strength. While it is active, hooks on the layers that it touches
add each row's change to the frozen layer's output; afterwards nothing is left on the models. Factors of adapters are
stacked, so that plain LoRA and DoRA of all rows take two batched matrix products a layer. Other kinds (LoHa, LoKr)
are added apart, for each group of rows.

A row's numbers do not depend on the other rows: every product has a shape that the row's own adapters decide, and
batched products give each of their items the same bits at any number of items (a test holds this).
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from detour.adapters.prepared import Dense, LowRank, Module, PreparedAdapter, rank_class
from detour.adapters.reference_rows import NO_REFERENCES, ReferencePlan, RowReference, plan_references
from detour.errors import AdapterError

NARROW = 8
"""Padded rank up to which the product with ``down`` is computed transposed."""

MERGED_BYTES = 64 << 20
"""Memory of copied weights for one picture: every layer of ``pocket``, not those of a base of photographs."""

Hook = Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]


@dataclass(frozen=True)
class RowGroup:
    """Neighbouring rows of a batch that share their adapters: the rows of one picture.

    Attributes:
        num_rows: one, or more with guidance.
        adapters: with their strengths; 1 is as trained, 0 is no effect.
        references: pictures that the rows are shown, with their strengths.
    """

    num_rows: int
    adapters: tuple[tuple[PreparedAdapter, float], ...] = ()
    references: tuple[RowReference, ...] = ()


@dataclass(frozen=True, eq=False)
class RowPlan:
    """What the rows of one batch add to the layers of a model.

    Attributes:
        hooks: layer → forward hook that adds the rows' changes to its output.
        references: what the rows' reference pictures add to cross-attention.
        weights: layer → its weight with the changes added, where all rows have the same ones.
    """

    hooks: Mapping[Module, Hook]
    references: ReferencePlan = NO_REFERENCES
    weights: Mapping[Module, nn.Parameter] = field(default_factory=dict)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Add the rows' adapters to every forward pass of the planned number of rows inside the block."""
        handles = [module.register_forward_hook(hook) for module, hook in self.hooks.items()]
        frozen = {module: module._parameters["weight"] for module in self.weights}
        try:
            for module, weight in self.weights.items():
                module._parameters["weight"] = weight
            with self.references.active():  # its hooks see queries with the adapters' changes
                yield
        finally:
            for module, own in frozen.items():
                module._parameters["weight"] = own
            for handle in handles:
                handle.remove()


def plan_rows(groups: Sequence[RowGroup], parts: Iterable[str], *, merge: bool = False) -> RowPlan:
    """Stack what the rows of a batch need.

    Groups of one rank are quickest where they are neighbours; rows behind the last group have no adapters.

    Args:
        groups: the batch's rows in order.
        parts: of the base, whose layers are planned: the denoiser, or a text encoder.
        merge: add the changes to copies of the weights instead, which makes a pass as quick as that of the plain base.
            Only for one group, which no other may ever join, in fp32, where the copies take ``MERGED_BYTES`` at most.
    """
    references = plan_references([(group.num_rows, group.references) for group in groups])
    if merge and len(groups) == 1:
        changes = _changes_of(groups[0], parts)
        if _is_mergeable(changes):
            weights = {module: _merged(module, change) for module, change in changes.items()}
            return RowPlan({}, references, weights)
    starts = [0]
    for group in groups:
        starts.append(starts[-1] + group.num_rows)
    wanted: dict[Module, list[_Change]] = {}
    for start, group in zip(starts, groups, strict=False):
        for module, change in _changes_of(group, parts).items():
            change.first_row, change.num_rows = start, group.num_rows
            wanted.setdefault(module, []).append(change)
    return RowPlan({module: _hook(module, changes) for module, changes in wanted.items()}, references)


@dataclass
class _Change:
    """What the adapters of one group of rows do to one layer."""

    low_rank: list[tuple[LowRank, float]]
    dense: list[tuple[Dense, float]]
    first_row: int = 0
    num_rows: int = 1

    @property
    def rank(self) -> int:
        """Rank of the stacked factors; a function of the group's own adapters."""
        return rank_class(sum(one.down.shape[0] for one, _ in self.low_rank)) if self.low_rank else 0

    @property
    def grows(self) -> bool:
        return any(one.growth is not None for one, _ in self.low_rank)

    @property
    def shape(self) -> tuple[int, int, bool]:
        """Changes of one shape are stacked."""
        return (self.num_rows, self.rank, self.grows)


def _changes_of(group: RowGroup, parts: Iterable[str]) -> dict[Module, _Change]:
    found: dict[Module, _Change] = {}
    for adapter, strength in group.adapters:
        if strength == 0:
            continue
        for part in parts:
            for module, change in adapter.changes.get(part, {}).items():
                mine = found.setdefault(module, _Change([], []))
                if isinstance(change, LowRank):
                    mine.low_rank.append((change, strength))
                else:
                    mine.dense.append((change, strength))
    return found


def _is_mergeable(changes: Mapping[Module, _Change]) -> bool:
    """Whether all layers are plain ones in fp32, whose copies take little memory."""
    plain = all(
        type(module) in (nn.Linear, nn.Conv2d)
        and "weight" in module._parameters
        and module.weight.dtype == torch.float32
        for module in changes
    )
    return plain and sum(4 * module.weight.numel() for module in changes) <= MERGED_BYTES


@torch.no_grad()
def _merged(module: Module, change: _Change) -> nn.Parameter:
    """A copy of a layer's weight to which the changes are added."""
    weight = module.weight
    frozen = merged = weight.flatten(1)
    for one, strength in change.low_rank:
        merged = torch.addmm(merged, one.up, one.down.flatten(1), alpha=strength)
        if one.growth is not None:
            merged += strength * one.growth[:, None] * frozen
    for other, strength in change.dense:
        merged = merged + strength * other.layer.delta(weight).flatten(1)
    merged = merged.view(weight.shape)
    return nn.Parameter(merged, requires_grad=False)


@dataclass(frozen=True, eq=False)
class _Stack:
    """Changes of one shape: U groups of ``num_rows`` rows each.

    Attributes:
        rows: of the batch.
        num_rows: of each group.
        down: (U, R, in), a convolution's (U, R, in, kh, kw).
        up: (U, out, R).
        growth: (U, 1, out), or None.
    """

    rows: slice | Tensor
    num_rows: int
    down: Tensor
    up: Tensor
    growth: Tensor | None


def _hook(module: Module, changes: Sequence[_Change]) -> Hook:
    low = sorted((one for one in changes if one.low_rank), key=lambda one: (one.shape, one.first_row))
    stacks = [_stack(list(same)) for _, same in groupby(low, key=lambda one: one.shape)]
    dense = [one for one in changes if one.dense]
    last = max(one.first_row + one.num_rows for one in changes)
    add = _add_to_linear if isinstance(module, nn.Linear) else _add_to_conv

    def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        x: Tensor = args[0]
        if len(x) < last:
            raise AdapterError(
                f"a {type(module).__name__} was given {len(x)} rows where the batch has {last} or more: adapters "
                "cannot be mixed on a layer that does not see the rows one by one."
            )
        exact = output.float().contiguous()
        x = x.float()
        for stack in stacks:
            add(module, stack, x, exact)
        _add_dense(module, dense, x, exact)
        return exact.to(output.dtype)

    return hook


def _stack(changes: Sequence[_Change]) -> _Stack:
    rows = torch.cat([torch.arange(one.first_row, one.first_row + one.num_rows) for one in changes])
    first = int(rows[0])
    together = torch.equal(rows, torch.arange(first, first + len(rows)))
    device = changes[0].low_rank[0][0].down.device
    factors = [_factors(one) for one in changes]
    alike = all(one.low_rank == changes[0].low_rank for one in changes)
    return _Stack(
        rows=slice(first, first + len(rows)) if together else rows.to(device),
        num_rows=changes[0].num_rows,
        down=_stacked([down for down, _, _ in factors], alike=alike),
        up=_stacked([up for _, up, _ in factors], alike=alike),
        growth=torch.stack([g for _, _, g in factors if g is not None])[:, None]
        if changes[0].grows
        else None,
    )


def _stacked(factors: Sequence[Tensor], *, alike: bool) -> Tensor:
    return factors[0].expand(len(factors), *factors[0].shape) if alike else torch.stack(list(factors))


def _factors(change: _Change) -> tuple[Tensor, Tensor, Tensor | None]:
    """(R, in, …), (out, R) and (out,): the group's adapters behind one another, with their strengths in ``up``."""
    if len(change.low_rank) == 1:
        (one, strength), *_ = change.low_rank
        growth = None if one.growth is None else one.growth * strength
        return one.down, one.up if strength == 1 else one.up * strength, growth
    down = torch.cat([one.down for one, _ in change.low_rank])
    up = torch.cat([one.up * strength for one, strength in change.low_rank], dim=1)
    missing = change.rank - down.shape[0]
    down = functional.pad(down, (*[0] * (2 * down.ndim - 1), missing))
    grown = [one.growth * strength for one, strength in change.low_rank if one.growth is not None]
    return down, functional.pad(up, (0, missing)), torch.stack(grown).sum(0) if grown else None


def _add_to_linear(module: Module, stack: _Stack, x: Tensor, output: Tensor) -> None:
    """Add the changes of the stack's rows to ``output``, (N, …, out) float32, in place."""
    num = len(stack.down)
    rows = x[stack.rows].reshape(num, -1, x.shape[-1])
    there = output[stack.rows]
    added = there.view(num, -1, output.shape[-1])
    if stack.growth is not None:
        plain = added if module.bias is None else added - module.bias.float()
        added.addcmul_(plain.clone() if module.bias is None else plain, stack.growth)
    added.baddbmm_(_narrowed(rows, stack.down), stack.up.mT)
    if not isinstance(stack.rows, slice):
        output[stack.rows] = there


def _narrowed(rows: Tensor, down: Tensor) -> Tensor:
    """(U, M, in) and (U, R, in) → (U, M, R)."""
    # A product of few columns is slow on CPUs: its transpose takes 40 % less time at R = 8, more at 32 (torch 2.13).
    if down.shape[1] <= NARROW:
        return torch.bmm(down, rows.mT).mT
    return torch.bmm(rows, down.mT)


def _add_to_conv(module: Module, stack: _Stack, x: Tensor, output: Tensor) -> None:
    """Add every row's change to the output of a convolution: (N, out, h, w)."""
    assert isinstance(module, nn.Conv2d)
    rows, there = x[stack.rows], output[stack.rows]
    added = there.view(len(rows), output.shape[1], -1)
    up = stack.up.repeat_interleave(stack.num_rows, dim=0)
    if stack.growth is not None:
        growth = stack.growth.mT.repeat_interleave(stack.num_rows, dim=0)
        plain = added if module.bias is None else added - module.bias.float()[:, None]
        added.addcmul_(plain.clone() if module.bias is None else plain, growth)
    added.baddbmm_(up, _convolved(module, stack, rows))
    if not isinstance(stack.rows, slice):
        output[stack.rows] = there


def _convolved(module: nn.Conv2d, stack: _Stack, rows: Tensor) -> Tensor:
    """(N, R, h · w): what each group's ``down`` makes of its rows."""
    if module.kernel_size == module.stride == (1, 1) and module.padding in ((0, 0), "valid"):
        down = stack.down.flatten(2).repeat_interleave(stack.num_rows, dim=0)
        return torch.bmm(down, rows.flatten(2))
    # Group by group: one convolution over all of them would choose its way by their number.
    each = rows.split(stack.num_rows)
    made = [module._conv_forward(few, down, None) for few, down in zip(each, stack.down, strict=True)]
    return torch.cat(made).flatten(2)


def _add_dense(module: Module, changes: Sequence[_Change], x: Tensor, output: Tensor) -> None:
    """Add changes of any other kind, whose weight is made here: kept, it would take as much memory as the base's."""
    made: dict[int, Tensor] = {}
    for change in changes:
        rows = slice(change.first_row, change.first_row + change.num_rows)
        for one, strength in change.dense:
            if id(one) not in made:
                made[id(one)] = one.layer.delta(module.weight).reshape(module.weight.shape)
            weight = made[id(one)] * strength
            if isinstance(module, nn.Conv2d):
                output[rows] += module._conv_forward(x[rows], weight, None)
            else:
                output[rows] += functional.linear(x[rows], weight)
