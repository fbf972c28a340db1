"""Outlines of the things that planted pictures show; none of them is one of the embedded world's silhouettes.

Every outline lives in the square from -1 to 1 with y downwards and is a list of polygons in painting order.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Tone = Literal["body", "dark", "light", "ink"]


@dataclass(frozen=True)
class Piece:
    """One polygon of a thing.

    Attributes:
        points: float64 (N, 2), x rightwards and y downwards.
        tone: the thing's own colour, a darker or a lighter one, or nearly black.
    """

    points: Points
    tone: Tone = "body"


Outline = list[Piece]


def polygon(*points: tuple[float, float]) -> Points:
    """The corners as an array."""
    return np.array(points, np.float64)


def oval(
    x: float, y: float, across: float, down: float, *, start: float = 0.0, end: float = 2 * math.pi
) -> Points:
    """Points on an ellipse around (x, y), or on a part of it, angles in radians clockwise from the right."""
    angles = np.linspace(start, end, 28, endpoint=end - start < 2 * math.pi - 1e-9)
    return np.stack([x + across * np.cos(angles), y + down * np.sin(angles)], axis=1)


def rounded(points: Points, times: int = 2) -> Points:
    """Corners cut off again and again (Chaikin 1974), which rounds a polygon."""
    for _ in range(times):
        after = np.roll(points, -1, axis=0)
        points = np.stack([0.75 * points + 0.25 * after, 0.25 * points + 0.75 * after], axis=1).reshape(-1, 2)
    return points


def band(points: Sequence[tuple[float, float]], width: float) -> Points:
    """An open line as a polygon of that width."""
    line = np.array(points, np.float64)
    along = np.gradient(line, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True) + 1e-12
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) * width / 2
    return np.concatenate([line + across, (line - across)[::-1]])


def _house() -> Outline:
    walls = polygon((-0.62, 0.95), (-0.62, -0.1), (0.62, -0.1), (0.62, 0.95))
    roof = polygon((-0.85, -0.05), (-0.6, -0.55), (0, -0.95), (0.6, -0.55), (0.85, -0.05))
    door = polygon((0.08, 0.95), (0.08, 0.3), (0.42, 0.3), (0.42, 0.95))
    window = polygon((-0.45, 0.5), (-0.45, 0.1), (-0.1, 0.1), (-0.1, 0.5))
    return [Piece(walls), Piece(roof, "dark"), Piece(door, "ink"), Piece(window, "light"),
            Piece(oval(0, -0.42, 0.15, 0.15), "light")]  # fmt: skip


def _car() -> Outline:
    van = rounded(polygon((-0.98, 0.5), (-0.98, -0.2), (-0.75, -0.3), (-0.55, -0.72), (0.75, -0.72), (0.98, -0.55),
                          (0.98, 0.5)), 1)  # fmt: skip
    glass = polygon((-0.6, -0.25), (-0.45, -0.58), (-0.1, -0.58), (-0.1, -0.25))
    behind = polygon((0.05, -0.25), (0.05, -0.58), (0.7, -0.58), (0.7, -0.25))
    wheels = [Piece(oval(x, 0.5, 0.26, 0.26), "ink") for x in (-0.55, 0.55)]
    return [Piece(van), Piece(glass, "light"), Piece(behind, "light"), *wheels,
            Piece(polygon((-0.98, 0.12), (0.98, 0.12), (0.98, 0.24), (-0.98, 0.24)), "dark")]  # fmt: skip


def _boat() -> Outline:
    hull = rounded(polygon((-1, 0.25), (-0.7, 0.85), (0.6, 0.85), (1, 0.15), (0.5, 0.3)), 1)
    cabin = polygon((-0.5, 0.3), (-0.5, -0.15), (0.25, -0.15), (0.25, 0.3))
    funnel = polygon((-0.25, -0.15), (-0.2, -0.75), (0.1, -0.75), (0.05, -0.15))
    holes = [Piece(oval(x, 0.07, 0.09, 0.09), "ink") for x in (-0.3, 0.05)]
    return [Piece(funnel, "dark"), Piece(cabin, "light"), Piece(hull), *holes,
            Piece(polygon((-0.24, -0.5), (-0.22, -0.62), (0.08, -0.62), (0.06, -0.5)), "light")]  # fmt: skip


def _star() -> Outline:
    angles = np.arange(12) * math.pi / 6 - math.pi / 2
    radii = np.where(np.arange(12) % 2 == 0, 0.98, 0.5)
    points = np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)
    return [Piece(points), Piece(oval(0, 0, 0.2, 0.2), "light")]


def _flower() -> Outline:
    stem = band([(0, -0.1), (0.06, 0.4), (0, 0.98)], 0.12)
    leaf = rounded(polygon((0.02, 0.75), (0.3, 0.35), (0.72, 0.25), (0.5, 0.62)), 2)
    tulip = rounded(polygon((-0.52, -0.9), (-0.24, -0.55), (0, -0.98), (0.24, -0.55), (0.52, -0.9), (0.5, -0.1),
                            (0, 0.15), (-0.5, -0.1)), 1)  # fmt: skip
    return [Piece(stem, "ink"), Piece(leaf, "ink"), Piece(tulip),
            Piece(band([(0, -0.9), (0, -0.4), (0, 0.05)], 0.08), "dark")]  # fmt: skip


def _fish() -> Outline:
    body = polygon((-0.95, 0.05), (-0.45, -0.45), (0.15, -0.42), (0.55, 0), (0.15, 0.5), (-0.45, 0.5))
    tail = polygon((0.45, 0), (0.98, -0.5), (0.8, 0), (0.98, 0.5))
    fin = polygon((-0.3, -0.42), (0.05, -0.8), (0.2, -0.38))
    return [Piece(tail, "dark"), Piece(fin, "dark"), Piece(rounded(body)),
            Piece(oval(-0.58, -0.08, 0.1, 0.1), "ink"),
            Piece(band([(-0.3, -0.3), (-0.18, 0.05), (-0.3, 0.38)], 0.08), "dark")]  # fmt: skip


def _cat() -> Outline:
    trunk = rounded(polygon((-0.35, -0.05), (0.6, -0.1), (0.72, 0.5), (-0.4, 0.5)), 2)
    legs = [polygon((x, 0.4), (x + 0.2, 0.4), (x + 0.2, 0.95), (x, 0.95)) for x in (-0.38, -0.1, 0.25, 0.5)]
    head = rounded(polygon((-0.98, -0.15), (-0.92, -0.75), (-0.72, -0.5), (-0.42, -0.5), (-0.22, -0.78),
                           (-0.16, -0.15), (-0.4, 0.12), (-0.75, 0.12)), 1)  # fmt: skip
    tail = band([(0.62, 0.05), (0.85, -0.2), (0.78, -0.6), (0.95, -0.9)], 0.15)
    eyes = [Piece(oval(x, -0.26, 0.07, 0.09), "ink") for x in (-0.74, -0.4)]
    return [Piece(tail), *(Piece(leg) for leg in legs), Piece(trunk), Piece(head), *eyes,
            Piece(polygon((-0.63, -0.1), (-0.51, -0.1), (-0.57, 0)), "light")]  # fmt: skip


def _duck() -> Outline:
    body = rounded(
        polygon((-0.4, 0.1), (0.3, 0.05), (0.98, -0.25), (0.75, 0.55), (0.1, 0.8), (-0.45, 0.6)), 2
    )
    neck = polygon((-0.5, 0.35), (-0.5, -0.55), (-0.15, -0.55), (-0.05, 0.3))
    head = oval(-0.36, -0.6, 0.32, 0.3)
    beak = polygon((-0.62, -0.72), (-1, -0.5), (-0.6, -0.42))
    feet = [Piece(band([(x, 0.65), (x, 0.95), (x - 0.15, 0.95)], 0.08), "ink") for x in (0.05, 0.35)]
    eye = oval(-0.42, -0.66, 0.06, 0.06)
    return [*feet, Piece(neck), Piece(body), Piece(head), Piece(beak, "dark"), Piece(eye, "ink"),
            Piece(rounded(polygon((0, 0.2), (0.6, 0.1), (0.4, 0.5), (0.1, 0.5)), 1), "dark")]  # fmt: skip


def _cup() -> Outline:
    bowl = rounded(
        polygon((-0.6, -0.7), (0.6, -0.7), (0.5, 0.1), (0.15, 0.35), (-0.15, 0.35), (-0.5, 0.1)), 1
    )
    stem = polygon((-0.12, 0.3), (0.12, 0.3), (0.12, 0.75), (-0.12, 0.75))
    foot = polygon((-0.45, 0.75), (0.45, 0.75), (0.5, 0.92), (-0.5, 0.92))
    handles = [Piece(band([(s * 0.55, -0.5), (s * 0.9, -0.45), (s * 0.85, -0.05), (s * 0.45, 0.05)], 0.12), "dark")
               for s in (-1, 1)]  # fmt: skip
    return [*handles, Piece(stem), Piece(foot, "dark"), Piece(bowl), Piece(oval(0, -0.66, 0.56, 0.1), "ink")]


def _key() -> Outline:
    bow = oval(-0.55, -0.1, 0.42, 0.42)
    shaft = polygon((-0.2, -0.2), (0.98, -0.2), (0.98, 0.0), (-0.2, 0.0))
    teeth = [polygon((x, 0), (x + 0.16, 0), (x + 0.16, d), (x, d)) for x, d in ((0.45, 0.3), (0.8, 0.45))]
    return [
        Piece(shaft),
        *(Piece(one) for one in teeth),
        Piece(bow),
        Piece(oval(-0.55, -0.1, 0.2, 0.2), "ink"),
    ]


def _umbrella() -> Outline:
    dome = np.concatenate([oval(0, 0, 0.95, 0.85, start=math.pi, end=2 * math.pi),
                           polygon((0.63, 0.12), (0.32, 0), (0, 0.12), (-0.32, 0), (-0.63, 0.12))])  # fmt: skip
    pole = band([(0, -0.9), (0, 0.3), (0, 0.75), (0.15, 0.92), (0.32, 0.75)], 0.09)
    return [
        Piece(pole, "ink"),
        Piece(dome),
        Piece(polygon((-0.32, 0), (-0.1, -0.83), (0.1, -0.83), (0.32, 0)), "dark"),
    ]


def _butterfly() -> Outline:
    pieces: Outline = []
    for side in (-1, 1):
        wing = rounded(polygon((0, -0.1), (side * 0.5, -0.85), (side * 0.98, -0.75), (side * 0.85, -0.05)), 2)
        low = rounded(polygon((0, 0), (side * 0.75, 0.1), (side * 0.6, 0.8), (side * 0.2, 0.6)), 2)
        spot = oval(side * 0.62, -0.48, 0.14, 0.14)
        pieces += [Piece(low, "dark"), Piece(wing), Piece(spot, "light")]
    feelers = [Piece(band([(0, -0.5), (s * 0.12, -0.75), (s * 0.28, -0.95)], 0.05), "ink") for s in (-1, 1)]
    return [*pieces, *feelers, Piece(oval(0, 0.05, 0.09, 0.6), "ink")]


def _rocket() -> Outline:
    body = rounded(polygon((-0.3, 0.6), (-0.32, -0.4), (0, -1), (0.32, -0.4), (0.3, 0.6)), 1)
    fins = [Piece(polygon((s * 0.25, 0.1), (s * 0.75, 0.75), (s * 0.25, 0.6)), "dark") for s in (-1, 1)]
    flame = polygon((-0.2, 0.6), (0, 0.98), (0.2, 0.6))
    return [Piece(flame, "light"), *fins, Piece(body), Piece(oval(0, -0.25, 0.15, 0.15), "light"),
            Piece(polygon((-0.3, 0.2), (0.3, 0.2), (0.3, 0.34), (-0.3, 0.34)), "ink")]  # fmt: skip


def _chair() -> Outline:
    back = polygon((-0.55, -0.95), (-0.3, -0.95), (-0.3, 0.1), (-0.55, 0.1))
    seat = polygon((-0.6, 0.05), (0.65, 0.05), (0.65, 0.3), (-0.6, 0.3))
    legs = [polygon((x, 0.3), (x + 0.15, 0.3), (x + 0.15, 0.95), (x, 0.95)) for x in (-0.55, 0.45)]
    slats = [
        Piece(polygon((-0.3, y), (0.1, y), (0.1, y + 0.12), (-0.3, y + 0.12)), "dark") for y in (-0.8, -0.4)
    ]
    return [*(Piece(one, "dark") for one in legs), *slats, Piece(back), Piece(seat)]


def _heart() -> Outline:
    t = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    x = 0.95 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 17
    return [Piece(np.stack([x, y], axis=1)), Piece(oval(-0.45, -0.35, 0.16, 0.12), "light")]


def _crown() -> Outline:
    body = polygon(
        (-0.8, 0.8), (-0.95, -0.45), (-0.45, 0.1), (0, -0.85), (0.45, 0.1), (0.95, -0.45), (0.8, 0.8)
    )
    rim = polygon((-0.8, 0.8), (-0.83, 0.5), (0.83, 0.5), (0.8, 0.8))
    gems = [Piece(oval(x, y, 0.11, 0.11), "light") for x, y in ((-0.93, -0.5), (0, -0.87), (0.93, -0.5))]
    return [Piece(body), Piece(rim, "dark"), *gems]


OUTLINES: dict[str, Callable[[], Outline]] = {
    "house": _house, "car": _car, "boat": _boat, "star": _star, "flower": _flower, "fish": _fish, "cat": _cat,
    "duck": _duck, "cup": _cup, "key": _key, "umbrella": _umbrella, "butterfly": _butterfly, "rocket": _rocket,
    "chair": _chair, "heart": _heart, "crown": _crown,
}  # fmt: skip
"""Word of the embedded base's vocabulary → function that makes its outline."""
