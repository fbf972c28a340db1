"""Predicts from their factors how two adapters interfere, before anything is drawn."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from detour.adapters.adapter import Adapter, LoraLayer
from detour.adapters.analysis import ThinSvd, thin_svd
from detour.adapters.blocks import block_of
from detour.adapters.compose import require_same_shape

RELATED = 12.0
"""Multiple of chance above which two adapters share more than unrelated ones do; ``docs/interference.md`` has the
figures behind it."""

SHARED_MOST = 0.5
"""Shared share above which adapters are related whatever chance is, as high ranks in narrow layers share much."""

STRONGER = 9.0
"""Ratio of the energies above which the effect of the weaker adapter may be lost."""

Verdict = Literal["apart", "together", "against"]

_RELEVANT = 1e-10
"""Directions below this share of the energy are rounding and span nothing."""


@dataclass(frozen=True, kw_only=True)
class LayerOverlap:
    """How two changes of one weight overlap.

    Attributes:
        outputs: mean squared cosine of the principal angles between what the two write to; 1 is the same space.
        inputs: the same for what they read.
        cosine: of the two changes as vectors, from -1 to 1.
        cancelled: share of the two energies that is gone in the sum at the chosen weights; negative where they
            amplify each other.
        shared: share of the two energies in directions that both read and both write.
        chance: that share for random directions of the same ranks: narrow layers and high ranks share much by chance.
        energy: of both changes at the chosen weights, ``w_a²‖ΔWa‖² + w_b²‖ΔWb‖²``.
    """

    outputs: float
    inputs: float
    cosine: float
    cancelled: float
    shared: float
    chance: float
    energy: float

    @property
    def over_chance(self) -> float:
        """How many times chance is shared."""
        return self.shared / self.chance if self.chance > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class Interference:
    """How two adapters at chosen weights disturb each other.

    Attributes:
        layers: layer key → figures, for layers that both have.
        interference: the summary number: how many times chance is the share of the energy that lies in directions
            which both read and both write; 1 for random directions.
        shared: that share, of all energy of both, layers of one alone included.
        cancelled: share of all energy that is gone in the sum; negative where they amplify each other.
        imbalance: energy of the stronger one over that of the weaker.
        verdict: ``apart``; or, from :data:`RELATED` times chance (or half of the energy) on, ``together`` where the
            changes point the same way and ``against`` where they cancel.
        suggestion: one sentence.
    """

    layers: Mapping[str, LayerOverlap]
    interference: float
    shared: float
    cancelled: float
    imbalance: float
    verdict: Verdict
    suggestion: str


def interference_of(
    a: Adapter, b: Adapter, weight_a: float, weight_b: float, *, names: tuple[str, str] = ("A", "B")
) -> Interference:
    """Compare two adapters layer by layer.

    Args:
        a: plain LoRA.
        b: plain LoRA.
        weight_a: at which ``a`` is used.
        weight_b: at which ``b`` is used.
        names: for the suggestion.

    Raises:
        AdapterError: layers of another kind.
        ShapeMismatch: the adapters are of different bases.

    Source: principal angles as in Björck & Golub 1973, Math. Comp. 27.
    """
    layers_a, layers_b = (adapter.plain_layers(purpose="interference") for adapter in (a, b))
    found = OverlapSum(weight_a, weight_b, names=names)
    for key in sorted(set(layers_a) | set(layers_b)):
        found.add(key, layers_a.get(key), layers_b.get(key))
    return found.interference()


class OverlapSum:
    """Compares two adapters one layer at a time, so that neither has to be in memory.

    Args:
        weight_a: at which the first is used.
        weight_b: at which the second is used.
        names: of both, for the suggestion.
    """

    def __init__(self, weight_a: float, weight_b: float, *, names: tuple[str, str] = ("A", "B")) -> None:
        self._weights = (weight_a, weight_b)
        self._names = names
        self._found: dict[str, LayerOverlap] = {}
        self._energies = [0.0, 0.0]

    def add(self, key: str, first: LoraLayer | None, second: LoraLayer | None) -> None:
        """Count one layer; ``None`` where an adapter does not have it.

        Raises:
            ShapeMismatch: the adapters are of different bases.
        """
        svds = [None if layer is None else thin_svd(layer, torch.float32) for layer in (first, second)]
        for index, (svd, weight) in enumerate(zip(svds, self._weights, strict=True)):
            self._energies[index] += _energy(svd, weight)
        if first is not None and second is not None and svds[0] is not None and svds[1] is not None:
            require_same_shape(key, [first, second])
            self._found[key] = _overlap(svds[0], svds[1], *self._weights)

    def interference(self) -> Interference:
        """The figures of all layers so far."""
        total, weaker = sum(self._energies), min(self._energies)
        layers = self._found.values()
        shared = sum(one.shared * one.energy for one in layers) / total if total else 0.0
        chance = sum(one.chance * one.energy for one in layers) / total if total else 0.0
        over_chance = shared / chance if chance > 0 else 0.0
        cancelled = sum(one.cancelled * one.energy for one in layers) / total if total else 0.0
        verdict = verdict_of(over_chance, shared, cancelled)
        return Interference(
            layers=self._found,
            interference=over_chance,
            shared=shared,
            cancelled=cancelled,
            imbalance=max(self._energies) / weaker if weaker > 0 else float("inf"),
            verdict=verdict,
            suggestion=_suggestion(self._found, self._energies, verdict, self._weights, self._names),
        )


def verdict_of(over_chance: float, shared: float, cancelled: float) -> Verdict:
    """The word for a summary number, the share behind it and the share of the energy that cancels."""
    if over_chance < RELATED and shared < SHARED_MOST:
        return "apart"
    return "against" if cancelled > 0 else "together"


def _overlap(a: ThinSvd, b: ThinSvd, weight_a: float, weight_b: float) -> LayerOverlap:
    a, b = _spanning(a), _spanning(b)
    outputs, inputs = a.left.T @ b.left, a.right @ b.right.T
    energy_a, energy_b = _energy(a, weight_a), _energy(b, weight_b)
    energy = energy_a + energy_b
    product = weight_a * weight_b * float((outputs * (a.values[:, None] * inputs * b.values)).sum())
    # P_b ΔWa P_b with the projections onto b's outputs and inputs, and the other way round.
    a_in_b = weight_a**2 * float((outputs.T @ (a.values[:, None] * inputs)).square().sum())
    b_in_a = weight_b**2 * float((outputs @ (b.values[:, None] * inputs.T)).square().sum())
    norms = (energy_a * energy_b) ** 0.5
    return LayerOverlap(
        outputs=_mean_square_cosine(outputs),
        inputs=_mean_square_cosine(inputs),
        cosine=_clamped(product / norms) if norms > 0 else 0.0,
        cancelled=-2.0 * product / energy if energy > 0 else 0.0,
        shared=(a_in_b + b_in_a) / energy if energy > 0 else 0.0,
        chance=_by_chance(a, b, energy_a, energy_b),
        energy=energy,
    )


def _by_chance(a: ThinSvd, b: ThinSvd, energy_a: float, energy_b: float) -> float:
    """What random directions share: of a change, ``rank / size`` of each side lies in a space of that rank."""
    energy = energy_a + energy_b
    if energy == 0:
        return 0.0
    tall, wide = a.left.shape[0], a.right.shape[1]
    shares = [len(one.values) ** 2 / (tall * wide) for one in (b, a)]
    return (shares[0] * energy_a + shares[1] * energy_b) / energy


def _spanning(svd: ThinSvd) -> ThinSvd:
    """Leave out directions that carry nothing: they would count as spanned space."""
    energies = svd.values.square()
    count = int((energies > _RELEVANT * energies[:1].clamp_min(1e-300)).sum())
    return ThinSvd(left=svd.left[:, :count], values=svd.values[:count], right=svd.right[:count])


def _energy(svd: ThinSvd | None, weight: float) -> float:
    return 0.0 if svd is None else weight**2 * float(svd.values.square().sum())


def _mean_square_cosine(products: Tensor) -> float:
    smaller = min(products.shape)
    return min(1.0, float(products.square().sum()) / smaller) if smaller else 0.0


def _clamped(value: float) -> float:
    return max(-1.0, min(1.0, value))


def over_chance_by(found: Mapping[str, LayerOverlap], group_of: Callable[[str], str]) -> dict[str, float]:
    """Group of layers → how many times chance they share, large changes counting for more.

    Args:
        found: layer key → figures.
        group_of: layer key → name of its group, e.g. :func:`detour.adapters.blocks.block_of`.
    """
    sums: dict[str, list[float]] = {}
    for key, one in found.items():
        mine = sums.setdefault(group_of(key), [0.0, 0.0])
        mine[0] += one.shared * one.energy
        mine[1] += one.chance * one.energy
    return {group: shared / chance if chance > 0 else 0.0 for group, (shared, chance) in sums.items()}


def _suggestion(
    found: Mapping[str, LayerOverlap],
    energies: Sequence[float],
    verdict: Verdict,
    weights: tuple[float, float],
    names: tuple[str, str],
) -> str:
    strong = 0 if energies[0] >= energies[1] else 1
    weak = 1 - strong
    if energies[weak] > 0 and energies[strong] > STRONGER * energies[weak]:
        even = weights[strong] * (energies[weak] / energies[strong]) ** 0.5
        return (
            f"{names[strong]} is {(energies[strong] / energies[weak]) ** 0.5:.1f} times as strong and may drown "
            f"{names[weak]}: at weight {even:.2g} they are even."
        )
    if verdict == "apart":
        return "they use different directions: compose them as they are."
    sums: dict[str, float] = {}
    for key, one in found.items():
        sums[block_of(key)] = sums.get(block_of(key), 0.0) + one.shared * one.energy
    block = max(sums, key=lambda name: sums[name])
    share = sums[block] / sum(sums.values())
    if share >= 0.5 and len(sums) > 1:
        return f"{share:.0%} of it is in block {block}: switch that off in {names[weak]} (detour resize --blocks)."
    lower = " and ".join(f"{name} at {0.5 * weight:.2g}" for name, weight in zip(names, weights, strict=True))
    if verdict == "together":
        return f"their effects add up, and prompts suffer from too much of it: try {lower}."
    return f"they undo each other: choose one of them, or give one most of the weight ({names[strong]} is stronger)."
