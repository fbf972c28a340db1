"""An adapter's change block by block, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from detour.files import write_with

if TYPE_CHECKING:
    from detour.verbs.adapter_tools.contents import AdapterReport

INK = "#1f2933"
BAR, FIRST, FOUR = "#d9480f", "#1c7ed6", "#a5d8ff"


def draw_blocks(report: AdapterReport, path: Path) -> Path:
    """Write bars of each block's norm, and of the energy in the first directions, as PNG.

    Args:
        report: with norms.
        path: ends in ``.png``.
    """
    from matplotlib.figure import Figure

    blocks = [block for block in report.blocks if block.norm is not None]
    figure = Figure(figsize=(max(7.0, 1.0 + 0.9 * len(blocks)), 6.4), dpi=110, facecolor="white")
    above: Any
    below: Any
    above, below = figure.subplots(2, 1, sharex=True)
    places = range(len(blocks))
    names = [block.block for block in blocks]
    above.bar(places, [block.norm or 0.0 for block in blocks], color=BAR, width=0.62)
    above.set_ylabel("norm of the change ‖ΔW‖")
    above.set_title(f"{report.path.stem}: what it changes, block by block", color=INK, loc="left")
    for place, block in zip(places, blocks, strict=True):
        above.annotate(
            f"{block.norm:.3g}", (place, block.norm or 0.0), ha="center", va="bottom", fontsize=9, color=INK
        )
    below.bar(
        places,
        [block.first_four_share or 0.0 for block in blocks],
        color=FOUR,
        width=0.62,
        label="first four",
    )
    below.bar(
        places,
        [block.first_share or 0.0 for block in blocks],
        color=FIRST,
        width=0.62,
        label="first direction",
    )
    below.set_ylim(0, 1.0)
    below.set_ylabel("share of the energy ‖ΔW‖²")
    below.set_xticks(list(places), names, rotation=30 if len(names) > 8 else 0)
    below.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(y=0.12)
    figure.tight_layout()

    def save(temporary: Path) -> None:
        figure.savefig(temporary, format="png", metadata={"Software": None})

    write_with(path, save)
    return path
