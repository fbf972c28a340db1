"""Charts as inline SVG: matplotlib draws them, and the page's style sheet colours them for light and dark.

matplotlib writes fixed colours. Each role has a colour of its own here that stands for nothing, and becomes the CSS
variable of the page afterwards; so the same chart is light or dark as its reader's screen is.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from xml.sax.saxutils import escape, quoteattr

Role = Literal[
    "ink",
    "soft",
    "line",
    "base",
    "adapter",
    "rate_zero",
    "shuffled",
    "no_prior",
    "ceiling",
    "raw",
    "validation",
]

COLOURS: Mapping[Role, str] = {
    "ink": "#010101", "soft": "#020202", "line": "#030303", "base": "#040404", "adapter": "#050505",
    "rate_zero": "#060606", "shuffled": "#070707", "ceiling": "#080808", "raw": "#090909", "validation": "#0a0a0a",
    "no_prior": "#0b0b0b",
}  # fmt: skip
"""Role → colour for matplotlib, which ``--ROLE`` of the page replaces."""

WIDTH_IN = 4.5
"""Width in inches, narrow enough to be read on a phone."""

BAR_IN, ROW_GAP = 0.19, 0.7
"""Height of a bar with the gap to the next in inches, and the gap between two groups in bars."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line of a chart.

    Attributes:
        name: as the legend says it.
        role: its colour.
        points: (step, value) pairs, steps rising.
        dots: mark every point: there are few, and between them nothing was measured.
    """

    name: str
    role: Role
    points: Sequence[tuple[float, float]]
    dots: bool = False


def smoothed(values: Sequence[float], *, weight: float = 0.95) -> list[float]:
    """Exponential moving average with its start corrected, so that early values are not pulled to zero.

    Args:
        values: one a step.
        weight: of what came before.

    Source: Kingma & Ba 2015, arXiv:1412.6980, section 3, on initialisation bias.
    """
    average, result = 0.0, []
    for count, value in enumerate(values, start=1):
        average = weight * average + (1 - weight) * value
        result.append(average / (1 - weight**count))
    return result


def line_chart(
    curves: Sequence[Curve], *, title: str, x_label: str, y_label: str, marked: float | None = None
) -> str:
    """A chart of curves over steps.

    Args:
        curves: those without finite points are left out.
        title: read out instead of the picture.
        x_label: under the axis, with its unit.
        y_label: beside the axis, with its unit.
        marked: a place on the x axis to point at.

    Returns:
        one ``<svg>`` element, or an empty string when no curve has points.
    """
    drawn = [(curve, [p for p in curve.points if math.isfinite(p[1])]) for curve in curves]
    drawn = [(curve, points) for curve, points in drawn if points]
    if not drawn:
        return ""
    figure, axes = _axes(2.6)
    for curve, points in drawn:
        xs, ys = zip(*points, strict=True)
        faint = curve.role == "raw"
        axes.plot(
            xs, ys, label=curve.name, color=COLOURS[curve.role], linewidth=0.7 if faint else 1.8,
            alpha=0.55 if faint else 1.0, marker="o" if curve.dots or len(points) == 1 else None, markersize=3.5,
            clip_on=False,
        )  # fmt: skip
    if marked is not None:
        axes.axvline(marked, color=COLOURS["ink"], linewidth=1, linestyle=":", clip_on=False)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(axis="y", color=COLOURS["line"], linewidth=0.7, clip_on=False)
    _legend(axes, columns=min(len(drawn), 2))
    return _svg(figure, title)


def bar_chart(
    rows: Sequence[tuple[str, Sequence[tuple[Role, str, float]]]], *, title: str, x_label: str, percent: bool
) -> str:
    """Groups of horizontal bars, each with its value as text.

    Args:
        rows: (group, ((role, name in the legend, value), …)), drawn from top to bottom.
        title: read out instead of the picture.
        x_label: under the axis, with its unit.
        percent: values are shares of one.

    Returns:
        one ``<svg>`` element, or an empty string without bars.
    """
    bars = [bar for _, group in rows for bar in group]
    if not bars:
        return ""
    lines = len(bars) + ROW_GAP * len(rows)
    figure, axes = _axes(0.85 + BAR_IN * lines)
    named: set[str] = set()
    places, y = [], 0.0
    for _, group in rows:
        places.append(y + (len(group) - 1) / 2)
        for role, name, value in group:
            axes.barh(
                y,
                value,
                color=COLOURS[role],
                height=0.82,
                label=None if name in named else name,
                clip_on=False,
            )
            shown = f"{value:.0%}" if percent else f"{value:.3f}"
            axes.annotate(
                shown, (max(value, 0.0), y), xytext=(3, 0), textcoords="offset points", va="center",
                color=COLOURS["ink"], annotation_clip=False,
            )  # fmt: skip
            named.add(name)
            y += 1
        y += ROW_GAP
    axes.set_yticks(places, [group for group, _ in rows])
    axes.tick_params(axis="y", length=0, labelcolor=COLOURS["ink"])
    axes.set_ylim(y - ROW_GAP - 0.4, -0.6)
    low = min(0.0, min(value for _, _, value in bars))
    high = 1.0 if percent else max(value for _, _, value in bars)
    axes.set_xlim(low, low + (high - low or 1.0) * 1.14)
    if percent:
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0%", "25%", "50%", "75%", "100%"])
    axes.set_xlabel(x_label)
    axes.grid(axis="x", color=COLOURS["line"], linewidth=0.7, clip_on=False)
    _legend(axes, columns=4)
    return _svg(figure, title)


def _axes(height_in: float) -> tuple[Any, Any]:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": 9, "axes.labelcolor": COLOURS["soft"], "text.color": COLOURS["soft"]}):
        figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
        axes = figure.subplots()
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(COLOURS["line"])
    axes.tick_params(colors=COLOURS["line"], labelcolor=COLOURS["soft"], labelsize=8.5)
    axes.set_axisbelow(True)
    return figure, axes


def _legend(axes: Any, *, columns: int) -> None:
    """Put the legend above the axes, where it hides nothing."""
    if len(axes.get_legend_handles_labels()[0]) > 1:
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, frameon=False, labelcolor=COLOURS["soft"],
            fontsize=8.5, borderaxespad=0.2, handlelength=1.3, columnspacing=1.2,
        )  # fmt: skip


def _svg(figure: Any, title: str) -> str:
    """Turn a figure into one SVG element that takes size, fonts and colours from the page and has a text
    alternative.
    """
    import matplotlib as mpl

    stream = io.StringIO()
    # The salt makes names of one chart differ from another's on the same page, and stay the same from run to run.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(
            stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    view = re.search(r'viewBox="([^"]+)"', text)
    assert view is not None
    text = re.sub(
        r"<svg[^>]*>",
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{view[1]}" role="img" aria-label={quoteattr(title)}><title>{escape(title)}</title>',
        text,
        count=1,
    )
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 system-ui, sans-serif", text)
    text = re.sub(r"font-family: [^;\"]*", "font-family: system-ui, sans-serif", text)
    for role, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{role.replace('_', '-')})")
    return text
