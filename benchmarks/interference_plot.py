"""The interference study as scatter plots: predictions across, damage upwards."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detour.adapters.overlap import RELATED
from detour.files import write_with
from detour.verbs.adapter_tools.measured_overlap import AGAINST, TOGETHER

INK = "#1f2933"
COLOURS = ("#d9480f", "#1c7ed6", "#2b8a3e", "#862e9c", "#e67700", "#0b7285", "#495057")


def draw_relation(rows: Sequence[dict[str, Any]], path: Path) -> Path:
    """Four panels as PNG: prompts and styles, each against the factors' and the base's prediction.

    Args:
        rows: as ``benchmarks.interference`` makes them.
        path: ends in ``.png``.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8.2), dpi=100, facecolor="white", layout="constrained")
    panels: Any = figure.subplots(2, 2, sharey="row")
    pairs = list(dict.fromkeys(_pair_of(row) for row in rows))
    for column, (part, key, label) in enumerate(
        (
            ("from_factors", "over_chance", "from the factors: shared directions, times chance"),
            ("on_base", "agreement", "on the base: agreement of what both do"),
        )
    ):
        prompts, styles = panels[0, column], panels[1, column]
        for row in rows:
            colour = COLOURS[pairs.index(_pair_of(row))]
            size = 90 if "@0.5" not in row["mix"] else 40 if row["mix"].count("@0.5") == 1 else 15
            prompts.scatter(row[part][key], 1 - row["accuracy"]["object"], color=colour, s=size, alpha=0.8)
            for lost in row["style_lost"].values():
                styles.scatter(row[part][key], lost, color=colour, s=size, alpha=0.8)
        styles.set_xlabel(label)
        styles.axhline(0, color=INK, linewidth=0.6)
        for axes in (prompts, styles):
            axes.spines[["top", "right"]].set_visible(False)
            for place in (RELATED,) if column == 0 else (AGAINST, TOGETHER):
                axes.axvline(place, color=INK, linewidth=0.8, linestyle=":")
            if column == 0:
                axes.set_xscale("log")
    panels[0, 0].set_ylabel("share of prompts with a wrong object")
    panels[1, 0].set_ylabel("share of its style that an adapter loses")
    for pair, colour in zip(pairs, COLOURS, strict=False):
        panels[0, 0].scatter([], [], color=colour, label=pair)
    figure.legend(
        *panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False,
        title="size of a dot: weights 1 and 1, 1 and 0.5, 0.5 and 0.5",
    )  # fmt: skip

    def save(temporary: Path) -> None:
        figure.savefig(temporary, format="png", metadata={"Software": None})

    write_with(path, save)
    return path


def _pair_of(row: dict[str, Any]) -> str:
    return " + ".join(part.split("@")[0] for part in row["mix"].split("+"))
