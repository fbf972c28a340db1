"""The things of the world as signed distances in object coordinates.

Every shape lives in the square from -1 to 1 with y upwards and touches its top and bottom or its sides. The
body carries the thing's colour; details are few, small, and a shade of that colour, white or black.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from detour.pocket.world.geometry import (
    Array,
    box,
    capsule,
    circle,
    ellipse,
    intersection,
    polygon,
    ring,
    star_points,
    union,
    without,
)

Tone = Literal["dark", "deep", "light", "white", "black"]


@dataclass(frozen=True)
class Silhouette:
    """Signed distances of one thing: its whole outline and its details, in painting order."""

    body: Array
    details: tuple[tuple[Array, Tone], ...] = ()


def _house(x: Array, y: Array) -> Silhouette:
    roof = polygon(x, y, [(-1.0, 0.12), (0.0, 1.0), (1.0, 0.12)])
    walls = box(x, y, (0, -0.42), (0.74, 0.58))
    chimney = box(x, y, (0.52, 0.62), (0.13, 0.3))
    windows = union(box(x, y, (-0.42, -0.32), (0.16, 0.16)), box(x, y, (0.42, -0.32), (0.16, 0.16)))
    door = box(x, y, (0, -0.66), (0.17, 0.34))
    return Silhouette(union(roof, walls, chimney), ((roof, "dark"), (door, "deep"), (windows, "white")))


def _car(x: Array, y: Array) -> Silhouette:
    hull = box(x, y, (0, -0.22), (1.0, 0.3), rounding=0.14)
    cabin = polygon(x, y, [(-0.62, 0.0), (-0.4, 0.56), (0.34, 0.56), (0.66, 0.0)])
    wheels = union(circle(x, y, (-0.54, -0.5), 0.27), circle(x, y, (0.54, -0.5), 0.27))
    hubs = union(circle(x, y, (-0.54, -0.5), 0.11), circle(x, y, (0.54, -0.5), 0.11))
    glass = union(
        polygon(x, y, [(-0.5, 0.08), (-0.34, 0.46), (-0.06, 0.46), (-0.06, 0.08)]),
        polygon(x, y, [(0.04, 0.08), (0.04, 0.46), (0.28, 0.46), (0.5, 0.08)]),
    )
    return Silhouette(union(hull, cabin, wheels), ((wheels, "black"), (hubs, "white"), (glass, "white")))


def _boat(x: Array, y: Array) -> Silhouette:
    hull = polygon(x, y, [(-1.0, -0.42), (1.0, -0.42), (0.66, -1.0), (-0.66, -1.0)])
    mast = box(x, y, (0, 0.25), (0.05, 0.75))
    main = polygon(x, y, [(0.1, 0.95), (0.1, -0.28), (0.88, -0.28)])
    jib = polygon(x, y, [(-0.1, 0.8), (-0.1, -0.28), (-0.7, -0.28)])
    stripe = intersection(hull, box(x, y, (0, -0.58), (1.0, 0.05)))
    return Silhouette(union(hull, mast, main, jib), ((mast, "deep"), (stripe, "white"), (jib, "light")))


def _star(x: Array, y: Array) -> Silhouette:
    return Silhouette(polygon(x, y, star_points(5, outer=1.05, inner=0.46, centre=(0, -0.05))))


def _flower(x: Array, y: Array) -> Silhouette:
    petals = None
    for i in range(6):
        angle = math.pi * i / 3
        petal = circle(x, y, (0.37 * math.cos(angle), 0.38 + 0.37 * math.sin(angle)), 0.3)
        petals = petal if petals is None else union(petals, petal)
    assert petals is not None
    stem = capsule(x, y, (0, 0), (0, -0.94), 0.06)
    leaves = union(
        polygon(x, y, [(0, -0.8), (-0.5, -0.3), (-0.42, -0.66)]),
        polygon(x, y, [(0, -0.8), (0.5, -0.3), (0.42, -0.66)]),
    )
    green = union(stem, leaves)
    details: tuple[tuple[Array, Tone], ...] = (
        (without(green, petals), "dark"),
        (circle(x, y, (0, 0.38), 0.2), "white"),
    )
    return Silhouette(union(petals, green), details)


def _fish(x: Array, y: Array) -> Silhouette:
    trunk = ellipse(x, y, (-0.22, 0), (0.76, 0.5))
    tail = polygon(x, y, [(0.4, 0.0), (1.0, 0.52), (0.86, 0.0), (1.0, -0.52)])
    fins = union(
        polygon(x, y, [(-0.4, 0.4), (0.05, 0.78), (0.2, 0.3)]),
        polygon(x, y, [(-0.25, -0.42), (0.1, -0.72), (0.15, -0.35)]),
    )
    body = union(trunk, tail, fins)
    stripes = intersection(trunk, union(ring(x, 0.06), ring(x - 0.25, 0.06)))
    eye, pupil = circle(x, y, (-0.62, 0.13), 0.13), circle(x, y, (-0.64, 0.13), 0.065)
    return Silhouette(body, ((stripes, "dark"), (eye, "white"), (pupil, "black")))


def _cat(x: Array, y: Array) -> Silhouette:
    head = ellipse(x, y, (-0.1, 0.4), (0.48, 0.4))
    ears = union(
        polygon(x, y, [(-0.56, 0.45), (-0.54, 1.0), (-0.16, 0.72)]),
        polygon(x, y, [(0.36, 0.45), (0.34, 1.0), (-0.04, 0.72)]),
    )
    trunk = ellipse(x, y, (-0.1, -0.5), (0.5, 0.55))
    base = box(x, y, (-0.1, -0.84), (0.5, 0.16), rounding=0.14)
    tail = union(
        capsule(x, y, (0.3, -0.86), (0.72, -0.7), 0.11),
        capsule(x, y, (0.72, -0.7), (0.78, -0.15), 0.11),
    )
    eyes = union(circle(x, y, (-0.29, 0.43), 0.1), circle(x, y, (0.09, 0.43), 0.1))
    pupils = union(circle(x, y, (-0.29, 0.43), 0.05), circle(x, y, (0.09, 0.43), 0.05))
    nose = polygon(x, y, [(-0.18, 0.27), (-0.02, 0.27), (-0.1, 0.17)])
    paws = ring(x + 0.1, 0.03)
    paws = intersection(paws, box(x, y, (-0.1, -0.85), (0.1, 0.2)))
    return Silhouette(
        union(head, ears, trunk, base, tail),
        ((eyes, "white"), (pupils, "black"), (nose, "deep"), (paws, "dark")),
    )


def _duck(x: Array, y: Array) -> Silhouette:
    trunk = ellipse(x, y, (-0.12, -0.42), (0.76, 0.46))
    rear = polygon(x, y, [(-1.0, 0.12), (-0.8, -0.5), (-0.35, -0.1)])
    neck = capsule(x, y, (0.3, -0.3), (0.36, 0.3), 0.24)
    head = circle(x, y, (0.36, 0.46), 0.36)
    beak = polygon(x, y, [(0.62, 0.6), (1.02, 0.4), (0.62, 0.26)])
    wing = ellipse(x, y, (-0.25, -0.38), (0.4, 0.24))
    eye = circle(x, y, (0.45, 0.56), 0.07)
    return Silhouette(
        union(trunk, rear, neck, head, beak), ((wing, "dark"), (without(beak, head), "deep"), (eye, "black"))
    )


def _cup(x: Array, y: Array) -> Silhouette:
    pot = polygon(x, y, [(-0.86, 0.75), (0.46, 0.75), (0.32, -0.85), (-0.72, -0.85)]) - 0.05
    handle = without(circle(x, y, (0.48, 0.02), 0.48), circle(x, y, (0.48, 0.02), 0.27))
    opening = ellipse(x, y, (-0.2, 0.68), (0.56, 0.13))
    band = intersection(pot, box(x, y, (0, -0.35), (1.0, 0.1)))
    return Silhouette(union(pot, handle), ((opening, "deep"), (band, "light")))


def _key(x: Array, y: Array) -> Silhouette:
    bow = without(circle(x, y, (-0.05, 0.5), 0.5), circle(x, y, (-0.05, 0.5), 0.22))
    shaft = box(x, y, (-0.05, -0.5), (0.14, 0.5))
    teeth = union(box(x, y, (0.25, -0.86), (0.26, 0.12)), box(x, y, (0.2, -0.48), (0.2, 0.11)))
    return Silhouette(union(bow, shaft, teeth), ((ring(circle(x, y, (-0.05, 0.5), 0.36), 0.03), "dark"),))


def _umbrella(x: Array, y: Array) -> Silhouette:
    dome = intersection(circle(x, y, (0, -0.08), 1.0), -(y + 0.08))
    scallops = union(*(ellipse(x, y, (cx, -0.1), (0.335, 0.16)) for cx in (-0.667, 0.0, 0.667)))
    canopy = without(dome, scallops)
    stick = capsule(x, y, (0, 0.9), (0, -0.72), 0.055)
    hook = intersection(ring(circle(x, y, (0.17, -0.74), 0.17), 0.055), y + 0.72)
    tip = capsule(x, y, (0, 0.85), (0, 0.96), 0.05)
    handle = union(stick, hook)
    ribs = intersection(canopy, ring(ellipse(x, y, (0, -0.08), (0.34, 1.0)), 0.03))
    return Silhouette(union(canopy, handle, tip), ((without(handle, canopy), "deep"), (ribs, "dark")))


def _butterfly(x: Array, y: Array) -> Silhouette:
    upper = union(
        polygon(x, y, [(0, 0.05), (0.62, 0.86), (0.92, 0.62), (0.72, 0.02)]) - 0.1,
        polygon(x, y, [(0, 0.05), (-0.62, 0.86), (-0.92, 0.62), (-0.72, 0.02)]) - 0.1,
    )
    lower = union(ellipse(x, y, (0.42, -0.48), (0.38, 0.44)), ellipse(x, y, (-0.42, -0.48), (0.38, 0.44)))
    trunk = capsule(x, y, (0, 0.4), (0, -0.6), 0.09)
    feelers = union(
        capsule(x, y, (0, 0.4), (0.22, 0.85), 0.035), capsule(x, y, (0, 0.4), (-0.22, 0.85), 0.035)
    )
    spots = union(
        circle(x, y, (0.62, 0.48), 0.15),
        circle(x, y, (-0.62, 0.48), 0.15),
        circle(x, y, (0.44, -0.5), 0.13),
        circle(x, y, (-0.44, -0.5), 0.13),
    )
    stalk = union(trunk, feelers)
    return Silhouette(union(upper, lower, stalk), ((spots, "light"), (stalk, "black")))


def _rocket(x: Array, y: Array) -> Silhouette:
    hull = intersection(circle(x, y, (-0.75, 0.0), 1.18), circle(x, y, (0.75, 0.0), 1.18), -(y + 0.62))
    nose = intersection(hull, -(y - 0.42))
    fins = union(
        polygon(x, y, [(0.25, -0.1), (0.78, -0.5), (0.78, -0.86), (0.25, -0.6)]),
        polygon(x, y, [(-0.25, -0.1), (-0.78, -0.5), (-0.78, -0.86), (-0.25, -0.6)]),
    )
    flame = polygon(x, y, [(-0.22, -0.6), (0.22, -0.6), (0.12, -0.82), (0.0, -1.02), (-0.12, -0.82)])
    port = circle(x, y, (0, 0.12), 0.19)
    return Silhouette(
        union(hull, fins, flame),
        ((without(flame, hull), "light"), (without(fins, hull), "dark"), (nose, "dark"), (port, "white")),
    )


def _chair(x: Array, y: Array) -> Silhouette:
    back = box(x, y, (-0.5, 0.4), (0.17, 0.6), rounding=0.08)
    seat = box(x, y, (0.02, -0.18), (0.7, 0.17), rounding=0.05)
    legs = union(box(x, y, (-0.53, -0.62), (0.13, 0.38)), box(x, y, (0.55, -0.62), (0.13, 0.38)))
    cushion = box(x, y, (0.12, -0.07), (0.5, 0.06), rounding=0.05)
    return Silhouette(union(back, seat, legs), ((without(legs, seat), "dark"), (cushion, "light")))


def _heart(x: Array, y: Array) -> Silhouette:
    lobes = union(circle(x, y, (-0.46, 0.36), 0.5), circle(x, y, (0.46, 0.36), 0.5))
    wedge = polygon(x, y, [(-0.84, 0.04), (0.0, -0.95), (0.84, 0.04), (0.0, 0.5)])
    gleam = capsule(x, y, (-0.68, 0.42), (-0.5, 0.6), 0.08)
    return Silhouette(union(lobes, wedge), ((gleam, "white"),))


def _crown(x: Array, y: Array) -> Silhouette:
    teeth = polygon(
        x,
        y,
        [(-0.8, -0.75), (-0.92, 0.5), (-0.45, -0.02), (0, 0.68), (0.45, -0.02), (0.92, 0.5), (0.8, -0.75)],
    )
    balls = union(
        circle(x, y, (-0.9, 0.5), 0.13), circle(x, y, (0, 0.68), 0.15), circle(x, y, (0.9, 0.5), 0.13)
    )
    band = intersection(teeth, box(x, y, (0, -0.62), (1.0, 0.13)))
    gems = union(*(circle(x, y, (cx, -0.3), 0.1) for cx in (-0.45, 0.0, 0.45)))
    return Silhouette(union(teeth, balls), ((band, "dark"), (gems, "white")))


def _robot(x: Array, y: Array) -> Silhouette:
    head = box(x, y, (0, 0.48), (0.46, 0.3), rounding=0.06)
    antenna = union(capsule(x, y, (0, 0.7), (0, 0.92), 0.04), circle(x, y, (0, 0.92), 0.09))
    trunk = box(x, y, (0, -0.24), (0.5, 0.36), rounding=0.04)
    neck = box(x, y, (0, 0.15), (0.14, 0.1))
    arms = union(
        box(x, y, (-0.7, -0.16), (0.12, 0.34), rounding=0.08),
        box(x, y, (0.7, -0.16), (0.12, 0.34), rounding=0.08),
    )
    joints = box(x, y, (0, 0.0), (0.68, 0.06))
    legs = union(box(x, y, (-0.26, -0.8), (0.14, 0.2)), box(x, y, (0.26, -0.8), (0.14, 0.2)))
    eyes = union(circle(x, y, (-0.2, 0.54), 0.12), circle(x, y, (0.2, 0.54), 0.12))
    mouth = box(x, y, (0, 0.28), (0.26, 0.05))
    panel = box(x, y, (0, -0.24), (0.28, 0.16))
    return Silhouette(
        union(head, antenna, trunk, neck, arms, joints, legs),
        ((legs, "dark"), (eyes, "white"), (mouth, "black"), (panel, "light")),
    )


def _snail(x: Array, y: Array) -> Silhouette:
    shell = circle(x, y, (-0.2, 0.08), 0.66)
    foot = capsule(x, y, (-0.86, -0.66), (0.62, -0.66), 0.18)
    neck = capsule(x, y, (0.62, -0.62), (0.76, 0.02), 0.2)
    stalks = union(
        capsule(x, y, (0.7, 0.1), (0.56, 0.52), 0.04), capsule(x, y, (0.8, 0.1), (0.94, 0.52), 0.04)
    )
    tips = union(circle(x, y, (0.56, 0.54), 0.09), circle(x, y, (0.94, 0.54), 0.09))
    flesh = without(union(foot, neck), shell)
    coil = union(
        ring(circle(x, y, (-0.16, 0.05), 0.46), 0.04),
        ring(circle(x, y, (-0.2, 0.1), 0.25), 0.04),
        circle(x, y, (-0.18, 0.08), 0.08),
    )
    return Silhouette(
        union(shell, foot, neck, stalks, tips), ((flesh, "light"), (coil, "deep"), (tips, "black"))
    )


def _octopus(x: Array, y: Array) -> Silhouette:
    head = ellipse(x, y, (0, 0.36), (0.6, 0.62))
    arms = []
    for foot, knee in ((-0.9, -0.62), (-0.36, -0.3), (0.36, 0.3), (0.9, 0.62)):
        arms.append(capsule(x, y, (knee * 0.5, 0.0), (knee, -0.62), 0.15))
        arms.append(capsule(x, y, (knee, -0.62), (foot, -0.86), 0.13))
    eyes = union(circle(x, y, (-0.22, 0.36), 0.15), circle(x, y, (0.22, 0.36), 0.15))
    pupils = union(circle(x, y, (-0.22, 0.33), 0.07), circle(x, y, (0.22, 0.33), 0.07))
    smile = box(x, y, (0, 0.08), (0.14, 0.035))
    return Silhouette(union(head, *arms), ((eyes, "white"), (pupils, "black"), (smile, "deep")))


SILHOUETTES: dict[str, Callable[[Array, Array], Silhouette]] = {
    "house": _house,
    "car": _car,
    "boat": _boat,
    "star": _star,
    "flower": _flower,
    "fish": _fish,
    "cat": _cat,
    "duck": _duck,
    "cup": _cup,
    "key": _key,
    "umbrella": _umbrella,
    "butterfly": _butterfly,
    "rocket": _rocket,
    "chair": _chair,
    "heart": _heart,
    "crown": _crown,
    "robot": _robot,
    "snail": _snail,
    "octopus": _octopus,
}
