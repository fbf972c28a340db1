"""Places and skies as layers: big shapes that say where and when at a glance.

Coordinates run from 0 to 1, rightwards and downwards. A thing covers the middle, so what tells a place
stands at the sides, along the skyline and in the ground's colour.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from detour.pocket.world.geometry import (
    Array,
    box,
    capsule,
    circle,
    clamp,
    ellipse,
    intersection,
    length,
    polygon,
    ring,
    union,
    without,
)
from detour.pocket.world.layers import Layer, everywhere, mixed
from detour.pocket.world.vocabulary import Colour

Rng = np.random.Generator

_SKIES: dict[str, tuple[Colour, Colour]] = {
    "by day": ((0.40, 0.72, 0.97), (0.82, 0.94, 1.0)),
    "at night": ((0.04, 0.05, 0.20), (0.15, 0.18, 0.42)),
    "at sunset": ((0.46, 0.24, 0.56), (1.0, 0.66, 0.36)),
    "in the rain": ((0.42, 0.47, 0.54), (0.66, 0.71, 0.76)),
    "in the snow": ((0.50, 0.58, 0.70), (0.78, 0.84, 0.90)),
}


@dataclass(frozen=True)
class Light:
    """What the sky's light does to the scenery: a colour, how far towards it, and whether lamps are lit."""

    colour: Colour
    share: float
    lamps: bool = False

    def __call__(self, colour: Colour) -> Colour:
        """The colour in this light."""
        return mixed(colour, self.colour, self.share)


_LIGHT: dict[str, Light] = {
    "by day": Light((1.0, 1.0, 1.0), 0.0),
    "at night": Light((0.04, 0.06, 0.22), 0.5, lamps=True),
    "at sunset": Light((0.95, 0.50, 0.35), 0.2),
    "in the rain": Light((0.45, 0.50, 0.56), 0.25),
    "in the snow": Light((0.92, 0.95, 1.0), 0.25),
}


def scenery_layers(place: str, sky: str, rng: Rng, x: Array, y: Array) -> list[Layer]:
    """Sky, place and weather, back to front.

    Args:
        place: a word of ``VOCABULARY.places``.
        sky: a phrase of ``VOCABULARY.skies``.
        rng: draws the details.
        x: (height, width) float32, 0 left to 1 right.
        y: (height, width) float32, 0 top to 1 bottom.
    """
    return [*_sky(sky, rng, x, y), *_PLACES[place](rng, x, y, _LIGHT[sky]), *_weather(sky, rng, x, y)]


def _land(distance: Array, colour: Colour, *, rim: float = 0.7) -> Layer:
    return Layer(distance=distance, colour=colour, role="scenery", rim=rim)


def _sky(sky: str, rng: Rng, x: Array, y: Array) -> list[Layer]:
    top, bottom = _SKIES[sky]
    blend = clamp(y / np.float32(0.6), 0, 1)
    layers = [
        Layer(distance=everywhere(x), colour=top, role="sky", second=bottom, blend=blend, rim=0.0),
    ]
    side = 0.14 if rng.random() < 0.5 else 0.86
    if sky == "by day":
        layers.append(_land(circle(x, y, (side, 0.14), 0.085), (1.0, 0.93, 0.45), rim=0.0))
        layers.append(_land(_cloud(x, y, (1 - side, rng.uniform(0.1, 0.18))), (1.0, 1.0, 1.0), rim=0.5))
    elif sky == "at night":
        moon = without(circle(x, y, (side, 0.15), 0.1), circle(x, y, (side + 0.05, 0.12), 0.085))
        stars = union(
            *(
                circle(
                    x,
                    y,
                    ((i + rng.uniform(0.2, 0.8)) / 9, rng.uniform(0.03, 0.42)),
                    rng.uniform(0.006, 0.012),
                )
                for i in range(9)
            )
        )
        layers += [
            _land(without(stars, circle(x, y, (side, 0.15), 0.13)), (1.0, 1.0, 0.9), rim=0.0),
            _land(moon, (1.0, 0.96, 0.72), rim=0.0),
        ]
    elif sky == "at sunset":
        layers.append(_land(circle(x, y, (side, 0.42), 0.15), (1.0, 0.86, 0.40), rim=0.0))
        layers.append(_land(_cloud(x, y, (1 - side, rng.uniform(0.12, 0.2))), (0.98, 0.60, 0.52), rim=0.0))
    else:
        grey: Colour = (0.34, 0.38, 0.45) if sky == "in the rain" else (0.68, 0.74, 0.82)
        clouds = union(*(_cloud(x, y, (cx, rng.uniform(0.07, 0.12))) for cx in (0.14, 0.5, 0.86)))
        layers.append(_land(clouds, grey, rim=0.5))
    return layers


def _cloud(x: Array, y: Array, centre: tuple[float, float]) -> Array:
    cx, cy = centre
    return union(
        ellipse(x, y, (cx, cy), (0.16, 0.045)),
        circle(x, y, (cx - 0.05, cy - 0.025), 0.055),
        circle(x, y, (cx + 0.045, cy - 0.015), 0.045),
    )


def _weather(sky: str, rng: Rng, x: Array, y: Array) -> list[Layer]:
    if sky == "in the rain":
        # Slanted lanes, each cut into dashes that start at a place of their own.
        lanes = (x + np.float32(0.25) * y) * np.float32(11)
        lane = np.floor(lanes)
        start = rng.random(32).astype(np.float32)[lane.astype(np.int32) % 32]
        along = (y * np.float32(3.2) + start) % np.float32(1) - np.float32(0.5)
        across = (lanes - lane - np.float32(0.5)) / np.float32(11)
        dashes = box(across, along / np.float32(3.2), (0, 0), (0.005, 0.06))
        return [Layer(distance=dashes, colour=(0.82, 0.91, 1.0), role="scenery", opacity=0.85, rim=0.0)]
    if sky == "in the snow":
        cells = 8
        i, j = np.floor(x * np.float32(cells)), np.floor(y * np.float32(cells))
        index = (i.astype(np.int32) % 16) * 16 + j.astype(np.int32) % 16
        jitter = rng.uniform(-0.3, 0.3, (2, 256)).astype(np.float32)
        dx = (x * np.float32(cells) - i - np.float32(0.5) - jitter[0][index]) / np.float32(cells)
        dy = (y * np.float32(cells) - j - np.float32(0.5) - jitter[1][index]) / np.float32(cells)
        return [_land(length(dx, dy) - np.float32(0.013), (1.0, 1.0, 1.0), rim=0.0)]
    return []


def _desert(rng: Rng, x: Array, y: Array, lit: Light) -> list[Layer]:
    phase = rng.uniform(0, 6.28)
    far = np.float32(0.56) + np.float32(0.05) * np.sin(x * np.float32(7) + np.float32(phase)) - y
    near = np.float32(0.76) + np.float32(0.04) * np.sin(x * np.float32(5) + np.float32(phase + 2)) - y
    base = rng.uniform(0.4, 0.6)
    peak = base - 0.08
    pyramid = polygon(x, y, [(base - 0.36, 0.62), (peak, 0.26), (base + 0.32, 0.62)])
    cacti = union(
        _cactus(x, y, (rng.uniform(0.07, 0.12), rng.uniform(0.76, 0.82)), 0.42),
        _cactus(x, y, (rng.uniform(0.88, 0.93), rng.uniform(0.74, 0.80)), 0.36),
    )
    return [
        _land(pyramid, lit((0.80, 0.62, 0.36))),
        _land(far, lit((0.93, 0.77, 0.48))),
        _land(near, lit((0.87, 0.67, 0.37))),
        _land(cacti, lit((0.22, 0.46, 0.22))),
    ]


def _cactus(x: Array, y: Array, foot: tuple[float, float], height: float) -> Array:
    fx, fy = foot
    arm = 0.085
    return union(
        capsule(x, y, (fx, fy), (fx, fy - height), 0.033),
        capsule(x, y, (fx, fy - height * 0.35), (fx - arm, fy - height * 0.42), 0.022),
        capsule(x, y, (fx - arm, fy - height * 0.42), (fx - arm, fy - height * 0.72), 0.022),
        capsule(x, y, (fx, fy - height * 0.5), (fx + arm, fy - height * 0.55), 0.022),
        capsule(x, y, (fx + arm, fy - height * 0.55), (fx + arm, fy - height * 0.85), 0.022),
    )


def _forest(rng: Rng, x: Array, y: Array, lit: Light) -> list[Layer]:
    ground = np.float32(0.74) - y
    far = _firs(x, y, count=6, phase=rng.random(), tip=0.20, foot=0.8)
    trunks = union(
        *(box(x, y, (cx + rng.uniform(-0.015, 0.015), 0.72), (0.024, 0.16)) for cx in (0.04, 0.2, 0.8, 0.96))
    )
    sides = union(
        *(
            fir
            for cx, tip in ((0.03, 0.12), (0.2, 0.3), (0.8, 0.3), (0.97, 0.12))
            for fir in _fir(x, y, cx + rng.uniform(-0.015, 0.015), tip + rng.uniform(-0.03, 0.03))
        )
    )
    return [
        _land(far, lit((0.16, 0.40, 0.30))),
        _land(ground, lit((0.22, 0.34, 0.14))),
        _land(trunks, lit((0.36, 0.22, 0.12))),
        _land(sides, lit((0.05, 0.25, 0.14))),
    ]


def _firs(x: Array, y: Array, *, count: int, phase: float, tip: float, foot: float) -> Array:
    """A row of pointed trees as one skyline."""
    place = x * np.float32(count) + np.float32(phase)
    slope = np.abs(place - np.floor(place) - np.float32(0.5)) * np.float32(2)
    skyline = np.float32(tip) + slope * np.float32(foot - tip) * np.float32(0.62)
    # The sides are steep: the height over them is about three times the distance.
    return np.asarray((skyline - y) * np.float32(0.32), np.float32)


def _fir(x: Array, y: Array, cx: float, tip: float) -> tuple[Array, Array]:
    height = 0.7 - tip
    lower = polygon(x, y, [(cx - 0.14, 0.7), (cx, tip + height * 0.25), (cx + 0.14, 0.7)])
    upper = polygon(x, y, [(cx - 0.105, tip + height * 0.55), (cx, tip), (cx + 0.105, tip + height * 0.55)])
    return lower, upper


def _beach(rng: Rng, x: Array, y: Array, lit: Light) -> list[Layer]:
    sea = np.float32(0.46) - y
    phase = rng.uniform(0, 6.28)
    shore = np.float32(0.73) + np.float32(0.018) * np.sin(x * np.float32(9) + np.float32(phase)) - y
    foam = shore - np.float32(0.028)
    crests = intersection(
        ring(
            (y - np.float32(0.05) * np.abs(np.sin(x * np.float32(20)))) % np.float32(0.095)
            - np.float32(0.05),
            0.006,
        ),
        sea,
    )
    right = rng.random() < 0.5
    px = rng.uniform(0.86, 0.92) if right else rng.uniform(0.08, 0.14)
    lean = -0.05 if right else 0.05
    trunk = capsule(x, y, (px, 0.82), (px + lean, 0.34), 0.021)
    crown = (px + lean, 0.33)
    fronds = union(
        *(
            capsule(x, y, crown, (crown[0] + dx, crown[1] + dy), 0.021)
            for dx, dy in (
                (-0.15, 0.08),
                (-0.15, -0.05),
                (-0.06, -0.13),
                (0.06, -0.13),
                (0.15, -0.05),
                (0.15, 0.08),
            )
        )
    )
    return [
        _land(sea, lit((0.07, 0.56, 0.70))),
        Layer(distance=crests, colour=lit((0.62, 0.90, 0.94)), role="scenery", rim=0.0),
        _land(shore, lit((0.97, 0.98, 0.96)), rim=0.0),
        _land(foam, lit((0.97, 0.90, 0.70)), rim=0.0),
        _land(trunk, lit((0.48, 0.32, 0.18))),
        _land(fronds, lit((0.13, 0.44, 0.20))),
    ]


def _city(rng: Rng, x: Array, y: Array, lit: Light) -> list[Layer]:
    road = np.float32(0.78) - y
    kerb = np.float32(0.755) - y
    far = union(
        *(
            box(x, y, (cx, 0.8), (0.085, 0.8 - top))
            for cx, top in zip((0.1, 0.29, 0.5, 0.71, 0.9), rng.uniform(0.16, 0.36, 5), strict=True)
        )
    )
    near = union(
        *(
            box(x, y, (cx, 0.8), (0.1, 0.8 - top))
            for cx, top in zip((0.05, 0.27, 0.73, 0.95), rng.uniform(0.24, 0.44, 4), strict=True)
        )
    )
    wx = (x % np.float32(0.056)) - np.float32(0.028)
    wy = (y % np.float32(0.075)) - np.float32(0.0375)
    windows = intersection(box(wx, wy, (0, 0), (0.015, 0.02)), near + np.float32(0.016))
    dashes = box((x % np.float32(0.26)) - np.float32(0.13), y, (0, 0.9), (0.07, 0.012))
    glass: Colour = (1.0, 0.90, 0.48) if lit.lamps else lit((0.86, 0.91, 0.96))
    return [
        _land(far, lit((0.60, 0.63, 0.70))),
        _land(near, lit((0.40, 0.43, 0.51))),
        _land(windows, glass, rim=0.0),
        _land(kerb, lit((0.74, 0.74, 0.75)), rim=0.0),
        _land(road, lit((0.27, 0.27, 0.31))),
        _land(dashes, lit((0.95, 0.95, 0.93)), rim=0.0),
    ]


def _mountains(rng: Rng, x: Array, y: Array, lit: Light) -> list[Layer]:
    peaks = [
        (rng.uniform(0.12, 0.2), rng.uniform(0.14, 0.2), 0.34),
        (rng.uniform(0.8, 0.88), rng.uniform(0.12, 0.18), 0.36),
        (rng.uniform(0.46, 0.56), rng.uniform(0.28, 0.36), 0.34),
    ]
    layers: list[Layer] = []
    for px, top, half in peaks:
        rock = polygon(x, y, [(px - half, 0.8), (px, top), (px + half, 0.8)])
        zigzag = np.float32(0.03) * np.abs((x * np.float32(13)) % np.float32(2) - np.float32(1))
        cap = intersection(rock, y - np.float32(top + 0.16) + zigzag)
        layers += [_land(rock, lit((0.42, 0.46, 0.60))), _land(cap, lit((0.97, 0.98, 1.0)), rim=0.4)]
    drift = (
        np.float32(0.72) + np.float32(0.03) * np.sin(x * np.float32(6) + np.float32(rng.uniform(0, 6.28))) - y
    )
    return [*layers, _land(drift, lit((0.87, 0.92, 0.97)))]


def _meadow(rng: Rng, x: Array, y: Array, lit: Light) -> list[Layer]:
    phase = rng.uniform(0, 6.28)
    far = np.float32(0.5) + np.float32(0.07) * np.sin(x * np.float32(6) + np.float32(phase)) - y
    near = np.float32(0.68) + np.float32(0.02) * np.sin(x * np.float32(5) + np.float32(phase + 2)) - y
    post = (x % np.float32(0.13)) - np.float32(0.065)
    posts = union(
        box(post, y, (0, 0.615), (0.021, 0.105)),
        polygon(post, y, [(-0.021, 0.515), (0, 0.48), (0.021, 0.515)]),
    )
    rails = union(box(x, y, (0.5, 0.57), (0.7, 0.013)), box(x, y, (0.5, 0.66), (0.7, 0.013)))
    row = np.floor(y / np.float32(0.09))
    bloom_x = ((x + row * np.float32(0.08)) % np.float32(0.16)) - np.float32(0.08)
    bloom_y = (y % np.float32(0.09)) - np.float32(0.045)
    blooms = intersection(length(bloom_x, bloom_y) - np.float32(0.013), np.float32(0.76) - y)
    return [
        _land(far, lit((0.50, 0.78, 0.36))),
        _land(union(posts, rails), lit((0.96, 0.93, 0.86)), rim=0.8),
        _land(near, lit((0.66, 0.87, 0.40))),
        _land(blooms, lit((1.0, 1.0, 1.0)), rim=0.0),
    ]


_PLACES: dict[str, Callable[[Rng, Array, Array, Light], list[Layer]]] = {
    "desert": _desert,
    "forest": _forest,
    "beach": _beach,
    "city": _city,
    "mountains": _mountains,
    "meadow": _meadow,
}
