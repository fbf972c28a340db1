"""The UNet as a U: down on the left, up on the right, what is frozen and what is adapted in each block."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from detour.files import write_with
from detour.verbs.explain.inspection_result import BaseInspection, BlockInfo, GroupInfo

INK = "#1f2933"
FROZEN, FROZEN_EDGE = "#e3e8ee", "#9aa5b1"
ADAPTED, ADAPTED_EDGE, ADAPTED_INK = "#ffd8a8", "#d9480f", "#9c2f00"

ROW = 0.42  # inches
TITLE = 0.62
WIDTH = 4.5
GAP_X, GAP_Y = 1.1, 0.32
STEP_X = 0.45


def draw_unet(inspection: BaseInspection, path: Path) -> Path:
    """Write the figure as PNG; same inspection, same picture.

    Args:
        inspection: of :func:`detour.verbs.explain.inspection.inspect_base`.
        path: ends in ``.png``.
    """
    from matplotlib.figure import Figure

    columns = _columns(inspection.blocks)
    steps = max(len(columns[0]), len(columns[2])) - 1
    depth = max(_height(columns[0]), _height(columns[2]))
    width = 2 * WIDTH + GAP_X + 2 * STEP_X * steps + 0.8
    height = depth + _height(columns[1]) + 2.3
    figure = Figure(figsize=(width, height), dpi=110, facecolor="white")
    axes: Any = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.axis("off")
    _heading(axes, inspection, width)
    top = 1.55
    left = _column(axes, columns[0], 0.4, top, STEP_X)
    right = _column(axes, columns[2][::-1], width - 0.4 - WIDTH, top, -STEP_X)
    middle = _column(axes, columns[1], (width - WIDTH) / 2, top + depth + GAP_Y, 0)
    embeddings = sum(block.name.endswith("_embedding") for block in columns[0])
    _arrows(axes, left[embeddings:], middle, right)
    downs = left[embeddings + 1 :]
    _skips(axes, downs, right[1 : 1 + len(downs)])

    def save(temporary: Path) -> None:
        figure.savefig(temporary, format="png", metadata={"Software": None})

    write_with(path, save)
    return path


def _columns(blocks: tuple[BlockInfo, ...]) -> tuple[list[BlockInfo], list[BlockInfo], list[BlockInfo]]:
    """Blocks on the way down, at the bottom, on the way up, each in the order of the forward pass."""
    down = [block for block in blocks if block.name.startswith(("conv_in", "down_blocks"))]
    down = [block for block in blocks if block.name.endswith("_embedding")] + down
    up = [block for block in blocks if block.name.startswith(("up_blocks", "conv_out"))]
    return down, [block for block in blocks if block.name == "mid_block"], up


def _height(blocks: list[BlockInfo]) -> float:
    return sum(_box_height(block) + GAP_Y for block in blocks)


def _box_height(block: BlockInfo) -> float:
    return TITLE + ROW * len(block.groups) + 0.12


def _column(
    axes: Any, blocks: list[BlockInfo], x: float, y: float, step: float
) -> list[tuple[float, float, float]]:
    """Draw boxes from top to bottom; returns (x, top, bottom) of each."""
    places = []
    for index, block in enumerate(blocks):
        place = x + step * index
        bottom = y + _box_height(block)
        _box(axes, block, place, y)
        places.append((place, y, bottom))
        y = bottom + GAP_Y
    return places


def _box(axes: Any, block: BlockInfo, x: float, y: float) -> None:
    from matplotlib.patches import FancyBboxPatch

    adapted = any(group.adapted for group in block.groups)
    edge = ADAPTED_EDGE if adapted else FROZEN_EDGE
    frame = FancyBboxPatch(
        (x, y), WIDTH, _box_height(block), boxstyle="round,pad=0,rounding_size=0.08",
        facecolor="white", edgecolor=edge, linewidth=2.2 if adapted else 1.2,
    )  # fmt: skip
    axes.add_patch(frame)
    axes.text(x + 0.14, y + 0.22, block.name, color=INK, fontsize=11, weight="bold", va="center")
    size = f"{_short(block.parameters)} frozen"
    if adapted:
        size += f" + {_short(block.adapter_parameters)} adapter"
    where = "to every ResNet" if block.name.endswith("_embedding") else f"{block.side}×{block.side}"
    axes.text(x + WIDTH - 0.14, y + 0.22, where, color=INK, fontsize=10, va="center", ha="right")
    axes.text(x + 0.14, y + 0.46, size, color=INK, fontsize=8.5, va="center")
    for index, group in enumerate(block.groups):
        _row(axes, group, x + 0.12, y + TITLE + ROW * index)


def _row(axes: Any, group: GroupInfo, x: float, y: float) -> None:
    from matplotlib.patches import Rectangle

    adapted = group.adapted > 0
    face, edge, ink = (ADAPTED, ADAPTED_EDGE, ADAPTED_INK) if adapted else (FROZEN, FROZEN_EDGE, INK)
    bar = Rectangle(
        (x, y), WIDTH - 0.24, ROW - 0.06, facecolor=face, edgecolor=edge, linewidth=0.8,
        hatch="///" if adapted else None, alpha=1.0,
    )  # fmt: skip
    bar.set_hatch_linewidth(0.25)
    axes.add_patch(bar)
    noun = "layer" if group.layers == 1 else "layers"
    state = (
        f"ADAPTED {group.adapted} of {group.layers} {noun}" if adapted else f"frozen, {group.layers} {noun}"
    )
    plain = {"facecolor": face, "edgecolor": "none", "pad": 1.2}
    axes.text(x + 0.1, y + ROW / 2 - 0.03, group.kind, color=ink, fontsize=9.5, va="center", bbox=plain)
    axes.text(
        x + WIDTH - 0.34, y + ROW / 2 - 0.03, state, color=ink, fontsize=9.5, va="center", ha="right",
        weight="bold" if adapted else "normal", bbox=plain,
    )  # fmt: skip


def _heading(axes: Any, inspection: BaseInspection, width: float) -> None:
    cost = inspection.costs[0]
    title = f"{inspection.identity} ({inspection.title}): UNet with adapters on '{inspection.targets}'"
    axes.text(0.4, 0.42, title, color=INK, fontsize=15, weight="bold", va="center")
    unet = inspection.parts[0].parameters
    summary = (
        f"{unet:,} frozen parameters; rank {cost.rank} adds {cost.parameters:,} "
        f"({100 * cost.share:.3f} %) beside {cost.modules} layers."
    )
    axes.text(0.4, 0.78, summary, color=INK, fontsize=11, va="center")
    legend = (("frozen", FROZEN, FROZEN_EDGE, INK), ("adapted", ADAPTED, ADAPTED_EDGE, ADAPTED_INK))
    for index, (word, face, edge, ink) in enumerate(legend):
        box = {"facecolor": face, "edgecolor": edge, "boxstyle": "round,pad=0.3"}
        axes.text(0.5 + 1.0 * index, 1.16, word, color=ink, fontsize=10, va="center", bbox=box)
    note = "arrows: the way of the latents; dotted: skip connections; n×n: size of the feature map"
    axes.text(width - 0.4, 1.16, note, color=INK, fontsize=9, va="center", ha="right")


def _arrows(axes: Any, left: list[Any], middle: list[Any], right: list[Any]) -> None:
    for upper, lower in itertools.pairwise(left):
        _arrow(axes, (lower[0] + WIDTH / 2, upper[2]), (lower[0] + WIDTH / 2, lower[1]))
    for upper, lower in itertools.pairwise(right):
        _arrow(axes, (lower[0] + WIDTH / 2, lower[1]), (lower[0] + WIDTH / 2, upper[2]))
    x, top, bottom = middle[0]
    centre = (top + bottom) / 2
    _arrow(axes, (left[-1][0] + WIDTH * 0.3, left[-1][2]), (x, centre), bend=0.25)
    _arrow(axes, (x + WIDTH, centre), (right[-1][0] + WIDTH * 0.7, right[-1][2]), bend=0.25)


def _skips(axes: Any, downs: list[Any], ups: list[Any]) -> None:
    """Dotted lines from each block on the left to the one of the same size on the right."""
    for down, up in zip(downs, ups, strict=False):
        start, end = (down[0] + WIDTH, down[1] + 0.3), (up[0], up[1] + 0.3)
        axes.plot(*zip(start, end, strict=True), color=FROZEN_EDGE, linewidth=1.4, linestyle=(0, (1.5, 2)))


def _arrow(axes: Any, start: tuple[float, float], end: tuple[float, float], bend: float = 0.0) -> None:
    style = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.3, "connectionstyle": f"arc3,rad={bend}"}
    axes.annotate("", xy=end, xytext=start, arrowprops=style)


def _short(number: int) -> str:
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
