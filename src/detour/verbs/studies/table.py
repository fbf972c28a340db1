"""Cells to a table: each variant's figures, and how they differ from those of a variant that all stand beside."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from detour.evaluation.differences import paired_difference
from detour.files import write_json, write_text
from detour.verbs.studies.engine import Cell, Experiment, Setting


class Gap(BaseModel):
    """How far a variant is from the reference, pair by pair; ``None`` where one pair cannot say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: float
    low: float | None
    high: float | None
    significant: bool
    """Whether this is more than noise, with all comparisons of this figure made at once."""


class Figure(BaseModel):
    """A figure of one variant: its mean, scatter and gap."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: float
    sd: float
    """Standard deviation of the samples, not of the mean."""
    samples: int
    gap: Gap | None
    """Difference to the reference; ``None`` for the reference itself and where it has no such figure."""

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return self.sd / math.sqrt(self.samples)


class Row(BaseModel):
    """A variant with its settings and figures."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variant: str
    settings: dict[str, Setting]
    figures: dict[str, Figure]


class Table(BaseModel):
    """The result of an experiment as rows and figures."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment: str
    reference: str
    seeds: tuple[int, ...]
    rows: tuple[Row, ...]

    def row(self, variant: str) -> Row:
        """The row of a variant that is there."""
        return next(row for row in self.rows if row.variant == variant)

    def to_csv(self) -> str:
        """One line a variant: settings, then mean, sd, and the gap with its ends of every figure."""
        settings = list(dict.fromkeys(name for row in self.rows for name in row.settings))
        figures = list(dict.fromkeys(name for row in self.rows for name in row.figures))
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        parts = ("mean", "sd", "samples", "gap", "gap_low", "gap_high", "significant")
        writer.writerow(["variant", *settings, *(f"{figure}_{part}" for figure in figures for part in parts)])
        for row in self.rows:
            cells = [_csv_cells(row.figures.get(figure)) for figure in figures]
            writer.writerow(
                [
                    row.variant,
                    *(row.settings.get(name, "") for name in settings),
                    *(c for few in cells for c in few),
                ]
            )
        return stream.getvalue()

    def write(self, folder: Path) -> None:
        """``table.json`` and ``table.csv``.

        Raises:
            StorageError: disk full or not writable.
        """
        write_json(folder / "table.json", self.model_dump(mode="json"))
        write_text(folder / "table.csv", self.to_csv())


def _csv_cells(figure: Figure | None) -> list[object]:
    if figure is None:
        return [""] * 7
    gap = figure.gap
    ends: list[object] = ["", "", "", ""]
    if gap is not None:
        ends = [gap.mean, *("" if end is None else end for end in (gap.low, gap.high)), gap.significant]
    return [figure.mean, figure.sd, figure.samples, *ends]


def tabulate(experiment: Experiment, cells: Sequence[Cell], *, reference: str) -> Table:
    """Put the samples of all seeds together and hold each variant beside the reference.

    Args:
        experiment: what was asked for.
        cells: all of it.
        reference: name of a variant.
    """
    samples = {variant.name: _by_seed(cells, variant.name) for variant in experiment.variants}
    rows = [
        Row(
            variant=variant.name,
            settings=dict(variant.settings),
            figures={
                name: _figure(
                    values,
                    samples[reference].get(name) if variant.name != reference else None,
                    comparisons=max(1, sum(name in other for other in samples.values()) - 1),
                )
                for name, values in samples[variant.name].items()
            },
        )
        for variant in experiment.variants
    ]
    return Table(
        experiment=experiment.name, reference=reference, seeds=tuple(experiment.seeds), rows=tuple(rows)
    )


def leaders(
    experiment: Experiment,
    cells: Sequence[Cell],
    variants: Sequence[str],
    figure: str,
    *,
    highest: bool = True,
) -> list[str]:
    """The variant with the highest (or lowest) mean, and after it those that are not surely behind it.

    Args:
        experiment: with the variants.
        cells: of all of them.
        variants: names of those that compete.
        figure: that they compete in.
        highest: whether more is better.
    """
    few = replace(experiment, variants=[one for one in experiment.variants if one.name in variants])
    means = {
        row.variant: row.figures[figure].mean for row in tabulate(few, cells, reference=variants[0]).rows
    }
    ranked = sorted(variants, key=lambda name: means[name], reverse=highest)
    beside = tabulate(few, cells, reference=ranked[0])
    gaps = {row.variant: row.figures[figure].gap for row in beside.rows}
    return [name for name in ranked if (gap := gaps[name]) is None or not gap.significant]


def spoken_leaders(names: Sequence[str]) -> str:
    """``"late"``, or ``"late, early (not told apart from noise)"``."""
    return ", ".join(names) + (" (not told apart from noise)" if len(names) > 1 else "")


Samples = Mapping[int, Sequence[float]]
"""Seed → samples; a seed without the figure, as of a run that diverged, is not there."""


def _by_seed(cells: Sequence[Cell], variant: str) -> dict[str, dict[int, Sequence[float]]]:
    """Sort the samples of each figure by seed."""
    found: dict[str, dict[int, Sequence[float]]] = {}
    for cell in sorted((cell for cell in cells if cell.variant == variant), key=lambda cell: cell.seed):
        for name, values in cell.samples.items():
            found.setdefault(name, {})[cell.seed] = values
    return found


def _figure(of_seeds: Samples, beside: Samples | None, *, comparisons: int) -> Figure:
    """The gap is that of the seeds which both have: samples of different seeds are no pair."""
    values = [value for few in of_seeds.values() for value in few]
    other = beside or {}
    both = [seed for seed, few in of_seeds.items() if few and len(other.get(seed, ())) == len(few)]
    gap = None
    if both:
        found = paired_difference(
            [value for seed in both for value in of_seeds[seed]],
            [value for seed in both for value in other[seed]],
            comparisons=comparisons,
        )
        gap = Gap(
            mean=found.mean,
            low=found.low if math.isfinite(found.low) else None,
            high=found.high if math.isfinite(found.high) else None,
            significant=found.significant,
        )
    return Figure(
        mean=float(np.mean(values)),
        sd=float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
        samples=len(values),
        gap=gap,
    )
