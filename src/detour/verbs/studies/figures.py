"""Tables as pictures: lines over a setting, bars over names; every mean with its standard error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detour.files import write_with
from detour.verbs.studies.table import Figure

INK, QUIET = "#1f2933", "#52606d"
COLOURS = ("#d9480f", "#1c7ed6", "#2b8a3e", "#862e9c", "#0c8599", "#868e96", "#e67700")


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line, or the bars of one colour.

    Attributes:
        name: in the legend; empty for none.
        points: (place, figure), places rising for a line, names for bars.
    """

    name: str
    points: Sequence[tuple[float | str, Figure]]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A pair of axes with its series.

    Attributes:
        title: what is seen.
        x_label: with the unit.
        y_label: with the unit.
        series: in the order of the legend.
        levels: horizontal lines to compare with: (name, value).
        ticks: places that are written at the axis; the library's own where there are none.
        log: axes whose scale is logarithmic: ``""``, ``"x"``, ``"y"`` or ``"xy"``.
    """

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    levels: Sequence[tuple[str, float]] = ()
    ticks: Sequence[float] = ()
    log: str = ""


def draw_panels(title: str, panels: Sequence[Panel], path: Path, *, columns: int = 3) -> Path:
    """Write the panels as one PNG, bars where places are names; same panels, same picture.

    Raises:
        StorageError: disk full or not writable.
    """
    from matplotlib.figure import Figure as Canvas

    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    canvas = Canvas(
        figsize=(4.6 * columns, 3.7 * rows + 0.5), dpi=100, facecolor="white", layout="constrained"
    )
    canvas.suptitle(title, color=INK, fontsize=13)
    every: Any = canvas.subplots(rows, columns, squeeze=False)
    for axes in every.flat[len(panels) :]:
        axes.axis("off")
    for axes, panel in zip(every.flat, panels, strict=False):
        _draw(axes, panel)

    def save(temporary: Path) -> None:
        canvas.savefig(temporary, format="png", metadata={"Software": None})

    write_with(path, save)
    return path


def _draw(axes: Any, panel: Panel) -> None:
    named = any(isinstance(place, str) for one in panel.series for place, _ in one.points)
    (_bars if named else _lines)(axes, panel)
    for style, (name, value) in zip((":", "--", "-."), panel.levels, strict=False):
        axes.axhline(value, color=QUIET, linestyle=style, linewidth=1.2, label=name)
    axes.set_title(panel.title, color=INK, fontsize=10.5, loc="left")
    axes.set_xlabel(panel.x_label, color=QUIET)
    axes.set_ylabel(panel.y_label, color=QUIET)
    axes.spines[["top", "right"]].set_visible(False)
    if panel.levels or sum(bool(one.name) for one in panel.series) > 1:
        depth = -0.42 if named and _are_long(_names(panel)) else -0.2
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, depth), "ncols": 2} if named else {}
        axes.legend(frameon=False, fontsize=8, **below)


def _lines(axes: Any, panel: Panel) -> None:
    for colour, one in zip(COLOURS, panel.series, strict=False):
        places = [place for place, _ in one.points]
        axes.errorbar(
            places,
            [figure.mean for _, figure in one.points],
            yerr=[figure.error for _, figure in one.points],
            color=colour, marker="o", markersize=4, capsize=2, linewidth=1.4, label=one.name or None,
        )  # fmt: skip
    if "x" in panel.log:
        axes.set_xscale("log")
        axes.minorticks_off()
    if "y" in panel.log:
        axes.set_yscale("log")
    if panel.ticks:
        axes.set_xticks(list(panel.ticks), [f"{tick:g}" for tick in panel.ticks])


def _names(panel: Panel) -> list[str]:
    return list(dict.fromkeys(str(place) for one in panel.series for place, _ in one.points))


def _are_long(names: Sequence[str]) -> bool:
    """Whether they would run into each other side by side."""
    return len(names) * max(map(len, names)) > 48


def _bars(axes: Any, panel: Panel) -> None:
    names = _names(panel)
    width = 0.8 / len(panel.series)
    for index, (colour, one) in enumerate(zip(COLOURS, panel.series, strict=False)):
        places = [
            names.index(str(place)) + (index - (len(panel.series) - 1) / 2) * width for place, _ in one.points
        ]
        axes.bar(
            np.array(places),
            [figure.mean for _, figure in one.points],
            width * 0.94,
            yerr=[figure.error for _, figure in one.points],
            color=colour, capsize=2, label=one.name or None, error_kw={"elinewidth": 1, "ecolor": INK},
        )  # fmt: skip
    turned = {"rotation": 22, "ha": "right"} if _are_long(names) else {}
    turned = {"rotation": 40} if len(names) > 10 else turned
    axes.set_xticks(range(len(names)), names, fontsize=7.5 if len(names) > 6 else 9, **turned)
    axes.axhline(0, color=QUIET, linewidth=0.7)
