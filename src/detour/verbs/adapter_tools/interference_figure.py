"""Where two adapters share directions, as a heat map of blocks and kinds of layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detour.adapters.blocks import KINDS_IN_ORDER
from detour.adapters.overlap import RELATED
from detour.errors import ConfigError
from detour.files import write_with
from detour.verbs.adapter_tools.composition_result import PairPrediction

INK = "#1f2933"
HIGHEST = 1000.0
"""Times chance at which the colours end."""


def draw_interference(pairs: Sequence[PairPrediction], path: Path) -> Path:
    """Write one heat map for each pair, one below the other, as PNG.

    Args:
        pairs: at least one.
        path: ends in ``.png``.

    Raises:
        ConfigError: no pair has a layer in common.
        StorageError: disk full, no permission.
    """
    from matplotlib.figure import Figure

    shown = [pair for pair in pairs if pair.map]
    if not shown:
        raise ConfigError("no two of these adapters have a layer in common: there is nothing to draw.")
    columns = [
        [kind for kind in KINDS_IN_ORDER if any(kind in row for row in pair.map.values())] for pair in shown
    ]
    width = 2.6 + 0.72 * max(len(kinds) for kinds in columns)
    heights = [1.9 + 0.36 * len(pair.map) for pair in shown]
    figure = Figure(figsize=(width, sum(heights)), dpi=110, facecolor="white", layout="constrained")
    every: Any = figure.subplots(len(shown), 1, squeeze=False, height_ratios=heights)
    for axes, pair, kinds in zip(every[:, 0], shown, columns, strict=True):
        _draw(figure, axes, pair, kinds)

    def save(temporary: Path) -> None:
        figure.savefig(temporary, format="png", metadata={"Software": None})

    write_with(path, save)
    return path


def _draw(figure: Any, axes: Any, pair: PairPrediction, kinds: list[str]) -> None:
    import numpy as np
    from matplotlib.colors import LogNorm

    blocks = list(pair.map)
    cells = np.array([[pair.map[block].get(kind, np.nan) for kind in kinds] for block in blocks])
    image = axes.imshow(cells.clip(1.0, HIGHEST), cmap="OrRd", norm=LogNorm(1.0, HIGHEST), aspect="auto")
    for row, column in np.ndindex(cells.shape):
        if np.isfinite(value := cells[row, column]):
            text = f"{value:.1f}" if value < 10 else f"{value:.0f}"
            ink = "white" if value > 60 else INK  # on the darker half of the colours
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=ink)
    axes.set_xticks(range(len(kinds)), kinds, rotation=35, ha="right", fontsize=9)
    axes.set_yticks(range(len(blocks)), blocks, fontsize=9)
    axes.set_title(
        f"{pair.first} and {pair.second}: {pair.interference:.3g} times chance ({pair.verdict})",
        color=INK, loc="left", fontsize=11,
    )  # fmt: skip
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, pad=0.01)
    bar.set_label("shared directions,\ntimes chance", fontsize=9)
    bar.ax.axhline(RELATED, color=INK, linewidth=1.5)
