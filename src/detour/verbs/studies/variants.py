"""Every combination of the values of a comparison's axes, and the ranks that make choices of layers equally large."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from detour.errors import ConfigError
from detour.specs.sources import with_changes
from detour.specs.studies import AxisSpec, CompareSpec
from detour.verbs.studies.engine import Setting
from detour.verbs.train.run_plan import RunPlan, plan_run

if TYPE_CHECKING:
    from torch import nn

    from detour.adapters.targets import AdaptableLayer

RANK, TARGETS = "adapter.rank", "adapter.targets"

VARIED = ("adapter", "train", "prior", "validate", "data")
"""Sections of a run that may differ between variants; the others are what they are compared by."""

FIXED = ("data.source", "data.folders", "data.split", "data.trigger", "data.resolution", "data.holdout")
"""Settings among those that prompts and references follow from."""

MAX_NAME = 60


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One run of the comparison, but for its seed.

    Attributes:
        name: short, unlike the others; can be a file name.
        settings: the varied ones under short names: columns of the table.
        plan: resolved and checked, at the first seed.
    """

    name: str
    settings: Mapping[str, Setting]
    plan: RunPlan


def make_candidates(spec: CompareSpec) -> list[Candidate]:
    """Resolve and check every combination before anything is trained.

    Raises:
        ConfigError: nothing varies, a setting that cannot vary or be combined, or values that do not go.
        BaseError, DataError: base or pictures cannot be opened.
    """
    _check_axes(spec.axes)
    labels = _labels(spec.axes)
    varied = [
        {axis.key: value for axis, value in zip(spec.axes, values, strict=True)}
        for values in itertools.product(*(dict.fromkeys(axis.values) for axis in spec.axes))
    ]
    if len(varied) < 2:
        raise ConfigError("one variant is nothing to compare: name several values, e.g. --rank 4,8.")
    if spec.equal_parameters:
        varied = _at_equal_parameters(spec, varied)
        labels.setdefault(RANK, "rank")
    names = _names([{labels[key]: value for key, value in changes.items()} for changes in varied])
    return [
        Candidate(
            name=name,
            settings={labels[key]: value for key, value in changes.items()},
            plan=_planned(spec, changes, name),
        )
        for name, changes in zip(names, varied, strict=True)
    ]


def _planned(spec: CompareSpec, changes: Mapping[str, Setting], name: str) -> RunPlan:
    """A run without sample pictures and proof, validated before its first step and after its last."""
    plan = plan_run(with_changes(spec.run, {"name": name, **changes}))
    drawn = {"sample.every": 0, "evaluate.proof_pictures": 1}
    if plan.spec.validate_.ship in ("auto", "last") and not plan.spec.validate_.patience:
        drawn["validate.every"] = plan.spec.train.steps if plan.spec.data.holdout else 0
    return RunPlan(
        spec=with_changes(plan.spec, drawn), base=plan.base, dataset=plan.dataset, notes=plan.notes
    )


def _check_axes(axes: Sequence[AxisSpec]) -> None:
    keys = [axis.key for axis in axes]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise ConfigError(f"{twice} is varied twice. Name all of its values at once.")
    for key in keys:
        if key.partition(".")[0] not in VARIED or key in FIXED:
            raise ConfigError(
                f"{key} cannot differ between variants: prompts, pictures or the base would be others too. "
                f"Sections that can: {', '.join(VARIED)}."
            )


def _labels(axes: Sequence[AxisSpec]) -> dict[str, str]:
    """Dotted key → its last part, or all of it where two would be alike."""
    last = [axis.key.rpartition(".")[2] for axis in axes]
    return {
        axis.key: name if last.count(name) == 1 else axis.key for axis, name in zip(axes, last, strict=True)
    }


def _names(settings: Sequence[Mapping[str, Setting]]) -> list[str]:
    """Words stand for themselves, numbers with the name of their setting; alike ones get a number."""
    names: list[str] = []
    for one in settings:
        parts = [
            value if isinstance(value, str) else f"{label}-{value:g}" if value is not True else label
            for label, value in one.items()
            if value is not False
        ]
        text = re.sub(r"[^\w.+-]+", "-", "_".join(parts) or "without").strip("-._+")[:MAX_NAME].rstrip("-._+")
        taken = (text if n == 1 else f"{text}-{n}" for n in itertools.count(1))
        names.append(next(name for name in taken if name not in names))
    return names


def _at_equal_parameters(spec: CompareSpec, varied: Sequence[dict[str, Setting]]) -> list[dict[str, Setting]]:
    """Each combination with the rank at which it is about as large as the largest that shares its other settings.

    Raises:
        ConfigError: choices of layers do not vary, or full weights have no rank.
    """
    targets = {one[TARGETS] for one in varied if TARGETS in one}
    if len(targets) < 2:
        raise ConfigError(
            "--equal-parameters compares choices of layers: name several, e.g. --preset attn,conv."
        )
    meta: nn.Module | None = None
    groups: dict[tuple[tuple[str, Setting], ...], list[tuple[dict[str, Setting], list[AdaptableLayer], int]]]
    groups = {}
    for one in varied:
        plan = plan_run(with_changes(spec.run, one))
        if plan.spec.adapter.method in ("full", "reference"):
            raise ConfigError(
                f"--equal-parameters: method {plan.spec.adapter.method} has no rank to choose. Leave it out."
            )
        meta = plan.base.meta_network() if meta is None else meta
        others = tuple((key, value) for key, value in one.items() if key != TARGETS)
        groups.setdefault(others, []).append((one, _layers(plan, meta), plan.spec.adapter.rank))
    found: dict[int, int] = {}
    for members in groups.values():
        method = with_changes(spec.run, members[0][0]).adapter.method
        budget = max(_count(layers, rank, method) for _, layers, rank in members)
        for one, layers, _ in members:
            found[id(one)] = _nearest_rank(layers, budget, method)
    return [{**one, RANK: found[id(one)]} for one in varied]


def _layers(plan: RunPlan, meta: nn.Module) -> list[AdaptableLayer]:
    from detour.training.assembly import choose_targets

    return list(choose_targets(meta, plan.base, plan.spec).layers)


def _count(layers: Sequence[AdaptableLayer], rank: int, method: str) -> int:
    from detour.adapters.arithmetic import count

    return count(layers, rank, method)  # type: ignore[arg-type]  # count refuses an unknown one


def _nearest_rank(layers: Sequence[AdaptableLayer], budget: int, method: str) -> int:
    """The rank whose parameters come nearest to the budget, among those that some layer can use."""
    from detour.adapters.arithmetic import usable_rank

    ranks = range(1, max(usable_rank(layer) for layer in layers) + 1)
    return min(ranks, key=lambda rank: abs(_count(layers, rank, method) - budget))
