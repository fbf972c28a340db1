from xml.etree import ElementTree

import pytest

from detour.evaluation.plots import Curve, bar_chart, line_chart, smoothed


def test_smoothing_starts_at_the_first_value_and_keeps_a_constant() -> None:
    assert smoothed([3.0, 3.0, 3.0]) == pytest.approx([3.0, 3.0, 3.0])
    assert smoothed([2.0, 0.0])[0] == pytest.approx(2.0)


def test_smoothing_moves_less_than_the_raw_values() -> None:
    rough = [0.0, 1.0] * 50
    smooth = smoothed(rough)
    assert max(smooth[60:]) - min(smooth[60:]) < 0.1


def test_higher_values_are_drawn_higher_and_later_steps_further_right() -> None:
    curve = Curve(name="loss", kind="raw", points=[(1, 0.5), (2, 0.1), (9, 0.9)])
    svg = ElementTree.fromstring(line_chart([curve], title="t", x_label="step", y_label="loss"))
    points = [tuple(map(float, pair.split(","))) for pair in svg.find("polyline").get("points").split()]  # type: ignore[union-attr]
    assert points[0][0] < points[1][0] < points[2][0]
    assert points[2][1] < points[0][1] < points[1][1]


@pytest.mark.parametrize(
    "points", [[(1, 0.5)], [(1, 0.5), (2, 0.5)], [(1, 1e-9), (2, 2e-9)], [(0, 3e5), (7, 1e6)]]
)
def test_any_range_of_values_stays_inside_the_picture(points: list[tuple[float, float]]) -> None:
    text = line_chart([Curve(name="x", kind="raw", points=points)], title="t", x_label="x", y_label="y")
    svg = ElementTree.fromstring(text)
    _, _, width, height = map(float, svg.get("viewBox", "").split())
    for pair in svg.find("polyline").get("points").split():  # type: ignore[union-attr]
        x, y = map(float, pair.split(","))
        assert 0 <= x <= width
        assert 0 <= y <= height


def test_nothing_to_draw_is_an_empty_text() -> None:
    assert line_chart([], title="t", x_label="x", y_label="y") == ""
    assert bar_chart([], title="t", percent=True) == ""


def test_bars_are_as_long_as_their_values_and_say_them() -> None:
    text = bar_chart([("colour", [("base", 0.5), ("adapter", 1.0)])], title="t", percent=True)
    bars = [float(rect.get("width", 0)) for rect in ElementTree.fromstring(text).findall("rect")]
    assert bars[1] == pytest.approx(2 * bars[0], rel=0.01)
    assert "50%" in text
    assert "100%" in text


def test_texts_are_escaped() -> None:
    text = bar_chart([("<b>&", [("base", 0.5)])], title='"<', percent=True)
    assert ElementTree.fromstring(text).get("aria-label") == '"<'
