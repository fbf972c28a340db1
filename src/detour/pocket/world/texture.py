"""Textures that cover a finished picture: noise, strokes, dots, paper, glass."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from detour.pocket.world.geometry import Array, clamp

Rng = np.random.Generator


@lru_cache(maxsize=64)
def _spread(num_px: int, num_knots: int) -> Array:
    """(num_px, num_knots) weights of a smooth interpolation between evenly spaced knots."""
    place = (np.arange(num_px, dtype=np.float32) + 0.5) / num_px * (num_knots - 1)
    low = np.minimum(place.astype(np.int32), num_knots - 2)
    share = place - low
    share = share * share * (3 - 2 * share)
    weights = np.zeros((num_px, num_knots), np.float32)
    rows = np.arange(num_px)
    weights[rows, low] = 1 - share
    weights[rows, low + 1] += share
    return weights


def smooth_noise(rng: Rng, num_px: int, knots: tuple[int, int]) -> Array:
    """(num_px, num_px) float32 value noise of about -1 to 1, with (vertical, horizontal) knots."""
    grid = rng.uniform(-1, 1, knots).astype(np.float32)
    return np.asarray(_spread(num_px, knots[0]) @ grid @ _spread(num_px, knots[1]).T, np.float32)


def clouds(rng: Rng, num_px: int) -> Array:
    """(num_px, num_px) float32 noise of three octaves, about -1 to 1."""
    mixture = (
        smooth_noise(rng, num_px, (6, 6))
        + np.float32(0.6) * smooth_noise(rng, num_px, (13, 13))
        + np.float32(0.35) * smooth_noise(rng, num_px, (29, 29))
    )
    return np.asarray(np.float32(0.55) * mixture, np.float32)


def paper_grain(rng: Rng, num_px: int) -> Array:
    """(num_px, num_px) float32 tooth of paper, about -1 to 1."""
    fine = rng.standard_normal((num_px, num_px), np.float32)
    coarse = smooth_noise(rng, num_px, (45, 45))
    return np.asarray(np.float32(0.45) * fine + np.float32(0.6) * coarse, np.float32)


def stripes(x_px: Array, y_px: Array, *, spacing_px: float, width: float) -> Array:
    """Coverage (0 to 1) of diagonal strokes; ``width`` is their share of the spacing."""
    place = (x_px + y_px) * np.float32(0.70710678 / spacing_px)
    away = np.abs(place - np.floor(place) - np.float32(0.5)) * np.float32(spacing_px)
    return clamp(np.float32(0.5 + width * spacing_px / 2) - away, 0, 1)


def dots(x_px: Array, y_px: Array, *, spacing_px: float, darkness: Array) -> Array:
    """Coverage (0 to 1) of a halftone raster at 45 degrees whose dots grow with ``darkness`` (0 to 1)."""
    k = np.float32(0.70710678 / spacing_px)
    u, v = (x_px + y_px) * k, (x_px - y_px) * k
    du, dv = u - np.floor(u) - np.float32(0.5), v - np.floor(v) - np.float32(0.5)
    away = np.sqrt(du * du + dv * dv)
    radius = np.float32(0.12) + np.float32(0.36) * darkness
    return clamp((radius - away) * np.float32(spacing_px) + np.float32(0.5), 0, 1)


def facets(rng: Rng, x_px: Array, y_px: Array, *, size_px: float, extent_px: float) -> tuple[Array, Array]:
    """Pieces of glass: distance to the nearest joint in pixels, and each piece's shade from -1 to 1.

    Source: the border distance of a jittered Voronoi grid, iquilezles.org/articles/voronoilines.
    """
    count = int(extent_px / size_px) + 2
    jitter = rng.uniform(0.15, 0.85, (2, count + 2, count + 2)).astype(np.float32)
    shades = rng.uniform(-1, 1, (count + 2, count + 2)).astype(np.float32)
    u, v = x_px / np.float32(size_px), y_px / np.float32(size_px)
    i = np.clip(np.floor(u).astype(np.int32), 0, count - 1)
    j = np.clip(np.floor(v).astype(np.int32), 0, count - 1)
    first = np.full(u.shape, 9.0, np.float32)
    second = np.full(u.shape, 9.0, np.float32)
    shade = np.zeros(u.shape, np.float32)
    for di in (-1, 0, 1):
        for dj in (-1, 0, 1):
            a, b = i + di + 1, j + dj + 1
            px = a.astype(np.float32) - 1 + jitter[0][a, b] - u
            py = b.astype(np.float32) - 1 + jitter[1][a, b] - v
            away = np.sqrt(px * px + py * py)
            nearer = away < first
            second = np.where(nearer, first, np.minimum(second, away))
            first = np.where(nearer, away, first)
            shade = np.where(nearer, shades[a, b], shade)
    return (second - first) * np.float32(size_px / 2), shade
