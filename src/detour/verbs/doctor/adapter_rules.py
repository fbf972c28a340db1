"""What is wrong with an adapter: its family, its size against the base's weights, its rank."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

from detour.adapters.adapter import Adapter, part_of
from detour.adapters.analysis import flat_factors
from detour.adapters.layers import DoraLayer, Layer, LoraLayer
from detour.adapters.places import find_layer
from detour.adapters.spectra import singular_values_of
from detour.verbs.doctor.finding import Finding, Rule

CHANGE_LARGE = 0.20
"""Bound of ‖ΔW‖ / ‖W‖ over all layers of a part: above this share of its weights ``pocket`` begins to lose prompts."""

CHANGE_BROKEN = 0.30
"""Relative change of the weights above which prompts are lost."""

ENERGY = 0.99
"""Share of each layer's change that the directions in use keep."""

UNUSED = 4
"""Times the directions in use, from which on a rank is called unused."""

SMALL_RANK = 8
"""Ranks up to this are never called unused: there is nothing to gain."""

TIGHT = 0.5
"""Ratio of the last direction's size to the first one's, from which on a rank is called tight."""

OTHER_FAMILY = Rule(
    name="adapter-of-another-family",
    subject="adapter",
    severity="error",
    fires="layers or widths of the adapter are not the base's",
    cause="Its changes have no layer to go to.",
    fix="Choose a base of the adapter's family with --base, or an adapter for this base.",
)
NOT_FINITE = Rule(
    name="adapter-not-finite",
    subject="adapter",
    severity="error",
    fires="values in the adapter that are not finite",
    cause="Training overflowed, and every picture becomes noise or black.",
    fix="Train again at a lower rate, or take an earlier checkpoint.",
)
NO_CHANGE = Rule(
    name="adapter-changes-nothing",
    subject="adapter",
    severity="error",
    fires="every ΔW is zero, because up or alpha is zero",
    cause="Pictures with and without it are the same.",
    fix="Train it with a learning rate above 0: without a step, or with a rate of 0, up stays zero.",
)
CHANGE_HIGH = Rule(
    name="change-large",
    subject="adapter",
    severity="warning",
    fires=f"weight · ‖ΔW‖ / ‖W‖ over all layers of the UNet (or of a text encoder) is above {CHANGE_LARGE:g}",
    cause="The change is large against the base's own weights, and pictures begin to lose what the prompt asks for.",
    fix="Lower its weight, or train with a lower rate or alpha, or fewer steps.",
    sure=True,
)
CHANGE_TOO_HIGH = Rule(
    name="change-too-large",
    subject="adapter",
    severity="error",
    fires=f"the same share is above {CHANGE_BROKEN:g}, by the weight, by alpha / rank or by training",
    cause="Pictures no longer show what the prompt asks for, and become patterns.",
    fix="Lower its weight, or train with a lower rate or alpha, or fewer steps.",
    sure=True,
)
RANK_UNUSED = Rule(
    name="rank-unused",
    subject="adapter",
    severity="note",
    fires=f"a median rank above {SMALL_RANK} and above {UNUSED} times the number of singular directions that hold "
    f"{ENERGY:.0%} of the change",
    cause="The rest of the rank costs memory and disk space, and holds next to nothing.",
    fix=f"Make it smaller: detour resize --energy {ENERGY:g}; train with a lower --rank next time.",
)
RANK_TIGHT = Rule(
    name="rank-tight",
    subject="adapter",
    severity="note",
    fires=f"in half of the layers the smallest singular value of ΔW is above {TIGHT:g} times the largest",
    cause="All directions are used alike, so a higher rank may learn more, and may also memorise more.",
    fix="Try twice the --rank, and let the held-out verdict decide.",
)
RULES = (OTHER_FAMILY, NOT_FINITE, NO_CHANGE, CHANGE_HIGH, CHANGE_TOO_HIGH, RANK_UNUSED, RANK_TIGHT)


@dataclass(frozen=True, kw_only=True)
class AdapterFacts:
    """What the rules look at.

    Attributes:
        where: the file.
        weight: that it is used with.
        rank: median over the layers.
        used: median over the layers of the directions that hold :data:`ENERGY` of the change.
        last_over_first: median over the layers of the last singular value over the first one.
        finite: whether all its numbers are.
        changes: whether any ΔW is other than zero.
        shares: part → ‖ΔW‖ / ‖W‖ at weight 1; empty where the base's weights are not at hand.
        misfit: what does not fit the base, in a sentence; empty where all fits.
    """

    where: str
    rank: float
    used: float
    last_over_first: float
    weight: float = 1.0
    finite: bool = True
    changes: bool = True
    shares: Mapping[str, float]
    misfit: str = ""


def change_shares(adapter: Adapter, models: Mapping[str, nn.Module]) -> dict[str, float]:
    """Part → ‖ΔW‖ / ‖W‖ at weight 1 (Frobenius), over all linear and convolution layers of the part.

    Layers that the adapter does not have count with their weights: a base bears more of a change that few layers make.
    A DoRA's change is that of its direction.

    Args:
        adapter: fits the models.
        models: part → module with weights.

    Raises:
        AdapterError: a layer that the models do not have.
    """
    changes: dict[str, float] = {}
    for key, layer in adapter.layers.items():
        find_layer(models, key, layer)
        changes[part_of(key)] = changes.get(part_of(key), 0.0) + _norm(layer) ** 2
    return {part: math.sqrt(change) / _size(models[part]) for part, change in changes.items()}


def _size(model: nn.Module) -> float:
    """‖W‖ of all its linear and convolution layers, without those of attached adapters, which PEFT keeps inside."""
    mine = (
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and "lora_" not in name
    )
    return (
        math.sqrt(sum(float(module.weight.detach().double().square().sum()) for module in mine)) or math.inf
    )


def _norm(layer: Layer) -> float:
    """‖ΔW‖; of plain LoRA from the factors' Gram matrices, as no decomposition is needed for it."""
    if isinstance(layer, DoraLayer):
        return _norm(layer.change)
    if isinstance(layer, LoraLayer):
        down, up = flat_factors(layer)
        return float(((down @ down.T) * (up.T @ up)).sum().clamp_min(0.0).sqrt())
    return float(layer.delta().double().norm())


def gather_adapter_facts(
    adapter: Adapter,
    *,
    where: str,
    weight: float = 1.0,
    models: Mapping[str, nn.Module] | None = None,
    misfit: str = "",
) -> AdapterFacts:
    """Figures of an adapter, from its factors.

    Args:
        adapter: with its numbers.
        where: the file.
        weight: that it is used with.
        models: part → module of the base; without them its size has no yardstick.
        misfit: what does not fit the base.
    """
    finite = all(_finite(layer) for layer in adapter.layers.values())
    spectra = [singular_values_of(layer) for layer in adapter.layers.values()] if finite else []
    changed = [values for values in spectra if float(values.norm()) > 0]
    return AdapterFacts(
        where=where,
        weight=weight,
        rank=median([layer.rank for layer in adapter.layers.values()]) if adapter.layers else 0,
        used=median([_used(values) for values in changed]) if changed else 0,
        last_over_first=median([_last_over_first(values) for values in changed]) if changed else 0,
        finite=finite,
        changes=bool(changed) or not finite or bool(adapter.words),
        shares=change_shares(adapter, models) if models and finite and not misfit else {},
        misfit=misfit,
    )


def _finite(layer: object) -> bool:
    tensors = [value for value in vars(layer).values() if isinstance(value, Tensor)]
    change = getattr(layer, "change", None)
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors) and (
        change is None or _finite(change)
    )


def _used(values: Tensor) -> int:
    """Directions that hold :data:`ENERGY` of the change."""
    share = values.square().cumsum(0) / values.square().sum()
    return int((share < ENERGY).sum()) + 1


def _last_over_first(values: Tensor) -> float:
    return float(values[-1] / values[0])


def examine_adapter(facts: AdapterFacts) -> Iterator[Finding]:
    """Look for faults in an adapter."""
    if facts.misfit:
        yield OTHER_FAMILY.found(facts.misfit.rstrip("."), facts.where)
    if not facts.finite:
        yield NOT_FINITE.found("it holds numbers that are not finite", facts.where)
        return
    if not facts.changes:
        yield NO_CHANGE.found("every ΔW is zero", facts.where)
        return
    yield from examine_size(facts.shares, weight=facts.weight, where=facts.where)
    if facts.rank > SMALL_RANK and facts.rank >= UNUSED * facts.used:
        yield RANK_UNUSED.found(
            f"rank {facts.rank:g}, and {facts.used:g} directions hold {ENERGY:.0%} of the change (medians)",
            facts.where,
        )
    if facts.rank > 1 and facts.last_over_first > TIGHT:
        yield RANK_TIGHT.found(
            f"rank {facts.rank:g}, and the last direction is {facts.last_over_first:.2f} of the first one",
            facts.where,
        )


def examine_size(shares: Mapping[str, float], *, weight: float, where: str) -> Iterator[Finding]:
    """Whether an adapter outweighs the base.

    Args:
        shares: part → ‖ΔW‖ / ‖W‖ at weight 1; without any there is nothing to say.
        weight: that it is used with.
        where: the file.
    """
    for part, at_one in shares.items():
        share = abs(weight) * at_one
        if share > CHANGE_LARGE:
            rule = CHANGE_TOO_HIGH if share > CHANGE_BROKEN else CHANGE_HIGH
            yield rule.found(
                f"at weight {weight:g} the change is {share:.2f} of the {part}'s weights",
                where,
                fix=f"Draw with a weight of {CHANGE_LARGE / at_one:.2g} or less; train with a lower rate or alpha, or "
                "fewer steps.",
            )
