import re
from xml.etree import ElementTree

import pytest

from detour.evaluation.plots import COLOURS, Curve, bar_chart, line_chart, smoothed

SVG = "{http://www.w3.org/2000/svg}"


def lines(text: str, role: str) -> list[list[tuple[float, float]]]:
    """The drawn paths in the colour of ``role``, as points; y grows downwards."""
    found = []
    for path in ElementTree.fromstring(text).iter(f"{SVG}path"):
        if f"stroke: var(--{role})" in path.get("style", "") and "fill: none" in path.get("style", ""):
            numbers = list(map(float, re.findall(r"-?[\d.]+", path.get("d", ""))))
            found.append(list(zip(numbers[::2], numbers[1::2], strict=True)))
    return found


def chart(curve: Curve, **settings: float) -> str:
    return line_chart([curve], title="t", x_label="training step", y_label="loss", **settings)


def test_smoothing_starts_at_the_first_value_and_keeps_a_constant() -> None:
    assert smoothed([3.0, 3.0, 3.0]) == pytest.approx([3.0, 3.0, 3.0])
    assert smoothed([2.0, 0.0])[0] == pytest.approx(2.0)


def test_smoothing_moves_less_than_the_raw_values() -> None:
    rough = [0.0, 1.0] * 50
    smooth = smoothed(rough)
    assert max(smooth[60:]) - min(smooth[60:]) < 0.1


def test_higher_values_are_drawn_higher_and_later_steps_further_right() -> None:
    [points] = lines(
        chart(Curve(name="loss", role="adapter", points=[(1, 0.5), (2, 0.1), (9, 0.9)])), "adapter"
    )
    assert points[0][0] < points[1][0] < points[2][0]
    assert points[2][1] < points[0][1] < points[1][1]


@pytest.mark.parametrize(
    "points",
    [[(1, 0.5), (2, 0.5)], [(1, 1e-9), (2, 2e-9)], [(0, 3e5), (7, 1e6)], [(1, 0.1), (2, float("nan"))]],
)
def test_any_range_of_values_stays_inside_the_picture(points: list[tuple[float, float]]) -> None:
    text = chart(Curve(name="x", role="validation", points=points))
    _, _, width, height = map(float, ElementTree.fromstring(text).get("viewBox", "").split())
    drawn = [point for line in lines(text, "validation") for point in line]
    assert drawn
    assert all(0 <= x <= width and 0 <= y <= height for x, y in drawn)


def test_a_marked_step_is_drawn_where_it_lies() -> None:
    curve = Curve(name="loss", role="adapter", points=[(0, 1.0), (10, 2.0), (40, 3.0)])
    text = chart(curve, marked=10)
    [mark] = lines(text, "ink")
    assert mark[0][0] == pytest.approx(lines(text, "adapter")[0][1][0], abs=0.01)


def test_nothing_to_draw_is_an_empty_text() -> None:
    assert line_chart([], title="t", x_label="x", y_label="y") == ""
    assert chart(Curve(name="x", role="raw", points=[(1, float("inf"))])) == ""
    assert bar_chart([], title="t", x_label="x", percent=True) == ""


def test_bars_are_as_long_as_their_values_and_say_them() -> None:
    rows = [("colour", [("base", "base", 0.5), ("adapter", "adapter", 1.0)])]
    text = bar_chart(rows, title="t", x_label="share", percent=True)  # type: ignore[arg-type]
    lengths = {}
    for path in ElementTree.fromstring(text).iter(f"{SVG}path"):
        for role in ("base", "adapter"):
            if f"fill: var(--{role})" in path.get("style", ""):
                xs = list(map(float, re.findall(r"-?[\d.]+", path.get("d", ""))))[::2]
                lengths[role] = max(lengths.get(role, 0), max(xs) - min(xs))
    assert lengths["adapter"] == pytest.approx(2 * lengths["base"], rel=0.01)
    assert ">50%<" in text
    assert ">100%<" in text


def test_texts_are_escaped_and_axes_have_their_words() -> None:
    text = bar_chart([("<b>&", [("base", "a", 0.5)])], title='"<', x_label="share", percent=True)
    assert ElementTree.fromstring(text).get("aria-label") == '"<'
    assert ">share<" in text
    curve = chart(Curve(name="x", role="raw", points=[(1, 1.0), (2, 2.0)]))
    assert ">training step<" in curve
    assert ">loss<" in curve


def test_a_chart_takes_every_colour_and_font_from_the_page_and_is_the_same_each_time() -> None:
    curve = Curve(name="x", role="adapter", points=[(1, 1.0), (2, 2.0)], dots=True)
    text = chart(curve)
    assert not re.search(r"#[0-9a-fA-F]{6}\b", text)
    assert set(re.findall(r"var\(--([a-z-]+)\)", text)) <= {role.replace("_", "-") for role in COLOURS}
    assert "DejaVu" not in text
    assert "url(" not in text
    assert text == chart(curve)
