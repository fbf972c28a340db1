"""Signed distances of plain shapes: negative inside, zero on the edge, in the units of the coordinates.

Every function takes two float32 arrays of one shape (the coordinates of the points) and gives the distance
at each point in the same shape. Distances are exact for circles, boxes, capsules and polygons, and
first-order near the edge for ellipses, which is where a renderer looks at them.

Source: the distance functions of Inigo Quilez, iquilezles.org/articles/distfunctions2d.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Point = tuple[float, float]


def length(x: Array, y: Array) -> Array:
    """Euclidean norm; ``np.hypot`` guards against overflow that cannot happen here and costs four times."""
    return np.asarray(np.sqrt(x * x + y * y), np.float32)


def clamp(values: Array, low: float, high: float) -> Array:
    """Limit values to the range between two bounds."""
    return np.asarray(np.clip(values, np.float32(low), np.float32(high)), np.float32)


def circle(x: Array, y: Array, centre: Point, radius: float) -> Array:
    """Signed distance of each point to a disc."""
    return length(x - np.float32(centre[0]), y - np.float32(centre[1])) - np.float32(radius)


def ellipse(x: Array, y: Array, centre: Point, radii: Point) -> Array:
    """First-order distance to an ellipse with axes along the coordinates."""
    a, b = np.float32(radii[0]), np.float32(radii[1])
    px, py = (x - np.float32(centre[0])) / a, (y - np.float32(centre[1])) / b
    k0 = length(px, py)
    k1 = length(px / a, py / b)
    return np.asarray(k0 * (k0 - np.float32(1)) / (k1 + np.float32(1e-6)), np.float32)


def box(x: Array, y: Array, centre: Point, half: Point, *, rounding: float = 0.0) -> Array:
    """Distance to a box given by its half sizes, corners rounded by ``rounding``."""
    qx = np.abs(x - np.float32(centre[0])) - np.float32(half[0] - rounding)
    qy = np.abs(y - np.float32(centre[1])) - np.float32(half[1] - rounding)
    zero = np.float32(0)
    px, py = np.asarray(np.maximum(qx, zero), np.float32), np.asarray(np.maximum(qy, zero), np.float32)
    inside = np.asarray(np.minimum(np.maximum(qx, qy), zero), np.float32)
    return length(px, py) + inside - np.float32(rounding)


def capsule(x: Array, y: Array, start: Point, end: Point, radius: float) -> Array:
    """Distance to a thick segment with round ends."""
    bx, by = end[0] - start[0], end[1] - start[1]
    px, py = x - np.float32(start[0]), y - np.float32(start[1])
    dx, dy = _from_segment(px, py, bx, by, 1e-12)
    return length(dx, dy) - np.float32(radius)


def _from_segment(px: Array, py: Array, ex: float, ey: float, guard: float = 0.0) -> tuple[Array, Array]:
    """Offsets from the nearest point of the segment that leads from the origin to (ex, ey)."""
    product = px * np.float32(ex) + py * np.float32(ey)
    along = clamp(np.asarray(product / np.float32(ex * ex + ey * ey + guard), np.float32), 0, 1)
    dx, dy = px - along * np.float32(ex), py - along * np.float32(ey)
    return np.asarray(dx, np.float32), np.asarray(dy, np.float32)


def polygon(x: Array, y: Array, points: Sequence[Point]) -> Array:
    """Distance to a simple polygon, its corners in either order."""
    nearest = np.full(x.shape, np.inf, np.float32)
    outside = np.ones(x.shape, bool)
    for i, (vx, vy) in enumerate(points):
        wx, wy = points[i - 1]
        ex, ey = wx - vx, wy - vy
        px, py = x - np.float32(vx), y - np.float32(vy)
        dx, dy = _from_segment(px, py, ex, ey)
        np.minimum(nearest, dx * dx + dy * dy, out=nearest)
        left = np.float32(ex) * py > np.float32(ey) * px
        above, below = y >= np.float32(vy), y < np.float32(wy)
        crosses = (above & below & left) | ~(above | below | left)
        outside ^= crosses
    return np.where(outside, np.float32(1), np.float32(-1)) * np.sqrt(nearest)


def star_points(num_tips: int, *, outer: float, inner: float, centre: Point = (0.0, 0.0)) -> list[Point]:
    """Corners of a star with its first tip towards positive y."""
    corners = []
    for i in range(2 * num_tips):
        radius = outer if i % 2 == 0 else inner
        angle = math.pi / 2 + math.pi * i / num_tips
        corners.append((centre[0] + radius * math.cos(angle), centre[1] + radius * math.sin(angle)))
    return corners


def union(*distances: Array) -> Array:
    """Signed distance of the union of several shapes."""
    result = distances[0]
    for distance in distances[1:]:
        result = np.minimum(result, distance)
    return result


def intersection(*distances: Array) -> Array:
    """Signed distance of the intersection of several shapes."""
    result = distances[0]
    for distance in distances[1:]:
        result = np.maximum(result, distance)
    return result


def without(distance: Array, hole: Array) -> Array:
    """Signed distance of the first shape minus the second."""
    return np.maximum(distance, -hole)


def ring(distance: Array, half_width: float) -> Array:
    """Signed distance of a band around a shape's edge."""
    return np.abs(distance) - np.float32(half_width)
