"""What the table of a comparison says, in sentences and as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from detour.verbs.studies.engine import Cell, Experiment
from detour.verbs.studies.figures import Panel, Series
from detour.verbs.studies.table import Row, Table, leaders


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How a figure is called and read.

    Attributes:
        title: what it says.
        unit: at the axis.
        highest: whether more is better; ``None``: neither.
    """

    title: str
    unit: str
    highest: bool | None = None


FIGURES = {
    "style_ratio": Kind(title="Style distance left", unit="share of the base's", highest=False),
    "style_distance": Kind(title="Style distance", unit="squared MMD", highest=None),
    "likeness": Kind(title="Likeness of the subject", unit="cosine to its true pictures", highest=True),
    "object": Kind(title="Right object", unit="share of pictures", highest=True),
    "colour": Kind(title="Right colour", unit="share of pictures", highest=True),
    "place": Kind(title="Right place", unit="share of pictures", highest=True),
    "clip": Kind(title="CLIP score", unit="cosine to the prompt", highest=None),
    "val_loss": Kind(title="Validation loss", unit="noise error on pictures kept out", highest=False),
    "pixels": Kind(title="Pixels moved", unit="mean difference to the base (0 to 255)", highest=None),
    "class_pixels": Kind(title="Class moved", unit="mean difference to the base (0 to 255)", highest=False),
    "parameters": Kind(title="Parameters", unit="trained numbers", highest=None),
    "seconds_a_step": Kind(title="Time", unit="seconds a step", highest=None),
    "file_kib": Kind(title="File", unit="KiB", highest=None),
}
"""Figures in the order in which they are shown."""

DRAWN = (
    "style_ratio", "likeness", "object", "colour", "place", "clip", "val_loss", "pixels", "class_pixels",
    "parameters", "seconds_a_step",
)  # fmt: skip


def finding_of(
    experiment: Experiment, cells: Sequence[Cell], table: Table, *, base_rows: Sequence[str]
) -> str:
    """One sentence a figure that can be better or worse: who leads, who is not told apart, who is behind.

    Args:
        experiment: the trained variants.
        cells: of them.
        table: of them and of what they are read by.
        base_rows: names of those.
    """
    sentences = [
        sentence
        for name, kind in FIGURES.items()
        if kind.highest is not None
        if (sentence := _sentence(name, kind, experiment, cells, table))
    ]
    lost = [
        f"{row.variant} ({row.figures['diverged'].mean:.0%} of its runs)"
        for row in table.rows
        if row.variant not in base_rows
        if "diverged" in row.figures and row.figures["diverged"].mean > 0
    ]
    if len(experiment.seeds) < 2:
        sentences.insert(0, "One seed each: no difference can be told from chance. Add seeds: --seeds 3.")
    if lost:
        sentences.append(f"Diverged, and left out of the other figures: {', '.join(lost)}.")
    if not any("clip" in row.figures for row in table.rows):
        sentences.append("No judge looked at the pictures: name a CLIP model with --judge.")
    return " ".join(sentences)


def _sentence(name: str, kind: Kind, experiment: Experiment, cells: Sequence[Cell], table: Table) -> str:
    assert kind.highest is not None
    rows = {one.name: table.row(one.name) for one in experiment.variants}
    names = [one for one, row in rows.items() if name in row.figures]
    if len(names) < 2:
        return ""
    values = {one: f"{rows[one].figures[name].mean:.3g}" for one in names}
    if len(experiment.seeds) < 2:
        best = (max if kind.highest else min)(names, key=lambda one: rows[one].figures[name].mean)
        others = [one for one in names if one != best]
        return f"{kind.title}: best {_listed([best], values)}, then {_listed(others, values)}."
    ahead = leaders(experiment, cells, names, name, highest=kind.highest)
    if len(ahead) == len(names):
        ends = sorted((rows[one].figures[name].mean for one in names), reverse=kind.highest)
        return f"{kind.title}: no difference beyond noise ({ends[0]:.3g} to {ends[-1]:.3g})."
    behind = [one for one in names if one not in ahead]
    beside = f", not told apart from {_listed(ahead[1:], values)}" if ahead[1:] else ""
    return (
        f"{kind.title}: best {_listed(ahead[:1], values)}{beside}; surely behind: {_listed(behind, values)}."
    )


def _listed(names: Sequence[str], values: dict[str, str]) -> str:
    return ", ".join(f"{name} ({values[name]})" for name in names)


def panels_of(table: Table, keys: Sequence[str], *, levels: Sequence[str]) -> list[Panel]:
    """A panel a figure: lines over a setting with numbers, or bars over the variants.

    Args:
        table: of the trained variants and of those in ``levels``.
        keys: dotted, of the settings that vary, in their order.
        levels: rows that are horizontal lines.
    """
    rows = [row for row in table.rows if row.variant not in levels]
    lines = _number_to_walk(rows, len(keys))
    panels = []
    for name in DRAWN:
        kind = FIGURES[name]
        having = [row for row in rows if name in row.figures]
        if not having:
            continue
        walk = "variant" if lines is None else lines
        panels.append(
            Panel(
                title=kind.title,
                x_label=walk,
                y_label=kind.unit,
                series=_series(having, name, lines),
                levels=[
                    (row.variant.replace("-", " "), row.figures[name].mean)
                    for row in table.rows
                    if row.variant in levels and name in row.figures
                ],
                ticks=[]
                if lines is None
                else sorted({float(row.settings[lines]) for row in rows}),
                log="x" if lines is not None and _spans_decades(rows, lines) else "",
            )
        )  # fmt: skip
    return panels


def _number_to_walk(rows: Sequence[Row], num_axes: int) -> str | None:
    """The first varied setting with different numbers; ``None`` where there is none."""
    settings = list(rows[0].settings)[:num_axes]
    for name in settings:
        values = {row.settings[name] for row in rows}
        if len(values) > 1 and all(
            isinstance(value, int | float) and not isinstance(value, bool) for value in values
        ):
            return name
    return None


def _spans_decades(rows: Sequence[Row], name: str) -> bool:
    values = [float(row.settings[name]) for row in rows]
    return min(values) > 0 and max(values) / min(values) >= 8


def _series(rows: Sequence[Row], figure: str, walk: str | None) -> list[Series]:
    if walk is None:
        return [Series(name="", points=[(row.variant, row.figures[figure]) for row in rows])]
    groups: dict[str, list[Row]] = {}
    for row in rows:
        others = ", ".join(str(value) for name, value in row.settings.items() if name != walk)
        groups.setdefault(others, []).append(row)
    return [
        Series(
            name=name,
            points=sorted(
                ((float(row.settings[walk]), row.figures[figure]) for row in members),
                key=lambda point: point[0],
            ),
        )
        for name, members in groups.items()
    ]
