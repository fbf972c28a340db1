"""Charts as small SVG texts: sharp on every screen, coloured by the page's own style."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 38


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line of a chart.

    Attributes:
        name: as the legend says it.
        kind: CSS class: ``raw``, ``smooth`` or ``validation``.
        points: (step, value) pairs, steps rising.
    """

    name: str
    kind: str
    points: Sequence[tuple[float, float]]


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


def line_chart(curves: Sequence[Curve], *, title: str, x_label: str, y_label: str) -> str:
    """A chart of curves over steps.

    Args:
        curves: those without points are left out.
        title: read out instead of the picture.
        x_label: under the axis.
        y_label: beside the axis.

    Returns:
        one ``<svg>`` element, or an empty string when no curve has points.
    """
    drawn = [curve for curve in curves if curve.points]
    if not drawn:
        return ""
    xs = [x for curve in drawn for x, _ in curve.points]
    ys = [y for curve in drawn for _, y in curve.points if math.isfinite(y)]
    if not ys:
        return ""
    x_low, x_high = min(xs), max(max(xs), min(xs) + 1)
    y_ticks = _ticks(min(ys), max(ys))
    frame = _Frame(x_low, x_high, y_ticks[0], y_ticks[-1])
    parts = [_grid_line(frame, tick) for tick in y_ticks]
    parts += [
        f'<text class="tick" x="{frame.x(tick):.1f}" y="{HEIGHT - BOTTOM + 16}" '
        f'text-anchor="middle">{tick:g}</text>'
        for tick in _ticks(x_low, x_high)
        if x_low <= tick <= x_high
    ]
    parts += [_polyline(frame, curve) for curve in drawn]
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text class="label" x="{middle:.1f}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>'
    )
    parts.append(
        f'<text class="label" transform="translate(12 {(TOP + HEIGHT - BOTTOM) / 2:.1f}) rotate(-90)" '
        f'text-anchor="middle">{escape(y_label)}</text>'
    )
    return _svg(parts, title, HEIGHT)


def bar_chart(rows: Sequence[tuple[str, Sequence[tuple[str, float]]]], *, title: str, percent: bool) -> str:
    """Groups of horizontal bars, each with its name and value written out.

    Args:
        rows: (group, ((bar, value), …)); the bar's name is its CSS class too.
        title: read out instead of the picture.
        percent: values are shares of one; otherwise the longest bar sets the scale.

    Returns:
        one ``<svg>`` element, or an empty string without rows.
    """
    if not rows:
        return ""
    longest = 1.0 if percent else max((value for _, bars in rows for _, value in bars), default=0) or 1.0
    parts, y = [], 4.0
    for group, bars in rows:
        parts.append(f'<text class="group" x="0" y="{y + 13:.1f}">{escape(group)}</text>')
        y += 20
        for name, value in bars:
            length = max(1.0, min(1.0, value / longest) * (WIDTH - 170))
            shown = f"{value:.0%}" if percent else f"{value:.3f}"
            parts.append(
                f'<text class="tick" x="84" y="{y + 12:.1f}" text-anchor="end">{escape(name)}</text>'
            )
            parts.append(
                f'<rect class="bar {escape(name)}" x="92" y="{y:.1f}" width="{length:.1f}" '
                'height="16" rx="3"/>'
            )
            parts.append(f'<text class="value" x="{98 + length:.1f}" y="{y + 12.5:.1f}">{shown}</text>')
            y += 21
        y += 8
    return _svg(parts, title, round(y))


@dataclass(frozen=True)
class _Frame:
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        return LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self.y_low) / (self.y_high - self.y_low) * (HEIGHT - TOP - BOTTOM)


def _polyline(frame: _Frame, curve: Curve) -> str:
    points = [(frame.x(x), frame.y(y)) for x, y in curve.points if math.isfinite(y)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = ""
    if len(points) <= 40:
        dots = "".join(
            f'<circle class="dot {curve.kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points
        )
    return f'<polyline class="curve {curve.kind}" points="{path}"/>{dots}'


def _grid_line(frame: _Frame, tick: float) -> str:
    y = frame.y(tick)
    return (
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>'
    )


def _ticks(low: float, high: float) -> list[float]:
    """Round values that enclose low…high, about five of them."""
    span = high - low or abs(high) or 1.0
    rough = span / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, max(last, first + 1) + 1)]


def _svg(parts: Sequence[str], title: str, height: int) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title, {chr(34): "&quot;"})}">'
        + "".join(parts)
        + "</svg>"
    )
