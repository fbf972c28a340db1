"""Content of a picture before any style: things with their poses, a place and a sky."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detour.errors import ConfigError
from detour.pocket.world.silhouettes import SILHOUETTES
from detour.pocket.world.vocabulary import COLOUR_VALUES, DAY, VOCABULARY


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One object with its pose.

    Attributes:
        kind: a word of ``VOCABULARY.objects`` or ``.held_out_subjects``.
        colour: a word of ``VOCABULARY.colours``.
        x: centre as a share of the picture's width, rightwards.
        y: centre as a share of the picture's height, downwards.
        size: side of the object's square as a share of the picture's.
        tilt: radians, counter-clockwise.
        mirrored: drawn as in a mirror.
    """

    kind: str
    colour: str
    x: float
    y: float
    size: float
    tilt: float = 0.0
    mirrored: bool = False


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One or two things in a place under a sky; ``seed`` draws the scenery's and the textures' details."""

    things: tuple[Thing, ...]
    place: str
    sky: str
    seed: int
    relation: str | None = None


def compose_scene(
    *,
    seed: int,
    things: Sequence[tuple[str, str]],
    place: str,
    sky: str | None = None,
    relation: str | None = None,
) -> Scene:
    """Lay out the scene that a prompt asks for; the seed draws poses and scenery.

    Args:
        seed: same seed and words, same scene.
        things: one or two (object, colour) pairs; with two, the relation reads from the first to the second.
        place: a word of ``VOCABULARY.places``.
        sky: a phrase of ``VOCABULARY.skies``; ``None`` is the day, as in captions that leave it out.
        relation: a word of ``VOCABULARY.relations``, given exactly when there are two things.

    Raises:
        ConfigError: a word that the world does not have, or a relation without two things.
    """
    for kind, colour in things:
        _check_word("object", kind, tuple(SILHOUETTES))
        _check_word("colour", colour, tuple(COLOUR_VALUES))
    _check_word("place", place, VOCABULARY.places)
    if sky is not None:
        _check_word("sky", sky, VOCABULARY.skies)
    if len(things) == 2:
        _check_word("relation", str(relation), VOCABULARY.relations)
    elif len(things) != 1 or relation is not None:
        raise ConfigError(
            f"a scene holds one thing, or two and a relation; found {len(things)} and relation {relation!r}. "
            f"Give one of {', '.join(VOCABULARY.relations)} exactly when there are two."
        )
    rng = np.random.default_rng([seed, 0x5CE4E])
    poses = _poses(rng, relation)
    placed = tuple(
        Thing(
            kind=kind,
            colour=colour,
            x=x,
            y=y,
            size=size,
            tilt=float(rng.uniform(-0.1, 0.1)),
            mirrored=bool(rng.random() < 0.5),
        )
        for (kind, colour), (x, y, size) in zip(things, poses, strict=True)
    )
    return Scene(things=placed, place=place, sky=sky or DAY, seed=int(rng.integers(2**31)), relation=relation)


def _poses(rng: np.random.Generator, relation: str | None) -> list[tuple[float, float, float]]:
    """(x, y, size) of each thing, the first of the relation first."""

    def near(value: float, spread: float) -> float:
        return float(value + rng.uniform(-spread, spread))

    if relation is None:
        size = near(0.61, 0.05)
        return [(near(0.5, 0.09), near(0.895, 0.025) - size / 2, size)]
    if relation == "beside":
        sizes = near(0.43, 0.02), near(0.43, 0.02)
        floor = near(0.86, 0.03)
        left, right = near(0.265, 0.02), near(0.735, 0.02)
        xs = (left, right) if rng.random() < 0.5 else (right, left)
        return [(x, floor - size / 2, size) for x, size in zip(xs, sizes, strict=True)]
    size_low, size_high = near(0.41, 0.02), near(0.365, 0.015)
    x, floor = near(0.5, 0.12), near(0.945, 0.015)
    y_low = floor - size_low / 2
    gap = 0.105 if relation == "above" else -0.03
    y_high = y_low - size_low / 2 - gap - size_high / 2
    return [(x + near(0.0, 0.02), y_high, size_high), (x, y_low, size_low)]


def _check_word(role: str, word: str, known: Sequence[str]) -> None:
    if word not in known:
        raise ConfigError(f"unknown {role} {word!r}. The world has: {', '.join(known)}.")
