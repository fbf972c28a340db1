"""Distances against what can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from detour.pocket.world.geometry import Array, box, capsule, circle, ellipse, polygon, ring, without


def _at(x: float, y: float) -> tuple[Array, Array]:
    return np.array([x], np.float32), np.array([y], np.float32)


@pytest.mark.parametrize(("x", "y", "distance"), [(3, 0, 2), (0, 0, -1), (0.5, 0, -0.5)])
def test_circle(x: float, y: float, distance: float) -> None:
    assert circle(*_at(x, y), (0, 0), 1)[0] == pytest.approx(distance)


@pytest.mark.parametrize(("x", "y", "distance"), [(4, 5, 5), (0, 0, -1), (0, 1.5, 0.5)])
def test_box(x: float, y: float, distance: float) -> None:
    assert box(*_at(x, y), (0, 0), (1, 1))[0] == pytest.approx(distance)


def test_polygon_agrees_with_box_in_either_order_of_corners() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-2, 2, (2, 500)).astype(np.float32)
    corners = [(-1.0, -0.5), (1.0, -0.5), (1.0, 0.5), (-1.0, 0.5)]
    expected = box(x, y, (0, 0), (1, 0.5))
    np.testing.assert_allclose(polygon(x, y, corners), expected, atol=1e-5)
    np.testing.assert_allclose(polygon(x, y, corners[::-1]), expected, atol=1e-5)


def test_capsule_is_a_circle_at_its_ends_and_straight_between() -> None:
    assert capsule(*_at(3, 0), (0, 0), (2, 0), 0.5)[0] == pytest.approx(0.5)
    assert capsule(*_at(1, 1), (0, 0), (2, 0), 0.5)[0] == pytest.approx(0.5)


def test_ellipse_is_zero_on_its_edge_and_first_order_near_it() -> None:
    assert ellipse(*_at(2, 0), (0, 0), (2, 1))[0] == pytest.approx(0, abs=1e-5)
    assert ellipse(*_at(0, 1.05), (0, 0), (2, 1))[0] == pytest.approx(0.05, abs=0.005)
    assert ellipse(*_at(0.001, 0), (0, 0), (2, 1))[0] < 0


def test_ring_and_without() -> None:
    disc = circle(*_at(1, 0), (0, 0), 1)
    assert ring(disc, 0.1)[0] == pytest.approx(-0.1)
    assert without(circle(*_at(0, 0), (0, 0), 1), circle(*_at(0, 0), (0, 0), 0.5))[0] == pytest.approx(0.5)
