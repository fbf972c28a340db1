"""Six characters that nobody but their pictures knows, each of a class that the embedded base can draw.

They are drawn by hand-made outlines in the scenery of the embedded world's house style, which the base knows: what is
new in a subject's pictures is the subject.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from benchmarks.verdicts.outlines import Points, band, oval, polygon, rounded
from detour.pocket.world import HOUSE, Scene, place_phrase, render

SIZE_PX = 128
FINE = 4
Colour = tuple[int, int, int]
Part = tuple[Points, Colour]
TOKEN = "sks"


@dataclass(frozen=True)
class Character:
    """One character with its looks and its class.

    Attributes:
        class_word: the word of the base's vocabulary for what it is one of.
        parts: polygons in the square from -1 to 1, y downwards, back to front, with their colours.
    """

    class_word: str
    parts: Callable[[], list[Part]]

    @property
    def words(self) -> str:
        """Words by which captions name the character: ``"a sks cat"``."""
        return f"a {TOKEN} {self.class_word}"

    @property
    def class_prompt(self) -> str:
        """Words by which captions name its class."""
        return f"a {self.class_word}"


def draw_subject(character: Character, place: str, *, seed: int) -> NDArray[np.uint8]:
    """The character in a place: uint8 (128, 128, 3), the same for the same seed."""
    rng = np.random.default_rng([seed, 0x5B1])
    scenery = Scene(things=(), place=place, sky="by day", seed=int(rng.integers(2**31)))
    side = SIZE_PX * FINE
    image = Image.fromarray(render(scenery, HOUSE)).resize((side, side), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    size, x, floor = rng.uniform(0.26, 0.33), rng.uniform(0.36, 0.64), rng.uniform(0.88, 0.95)
    turn, mirrored = rng.uniform(-0.15, 0.15), rng.random() < 0.5
    spin = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    for points, colour in character.parts():
        turned = (points * ((-1, 1) if mirrored else (1, 1))) @ spin.T * size + (x, floor - size)
        corners = [(float(a) * side, float(b) * side) for a, b in turned]
        pen.polygon(corners, fill=colour)
        pen.line([*corners, corners[0]], fill=tuple(int(0.4 * v) for v in colour), width=FINE)
    return np.asarray(image.resize((SIZE_PX, SIZE_PX), Image.Resampling.BOX), np.uint8)


def subject_caption(character: Character, place: str, *, seed: int) -> str:
    """One of several phrasings, all of them true."""
    phrasings = (
        f"{character.words} {place_phrase(place)}",
        f"{place_phrase(place)} there is {character.words}",
        f"a picture of {character.words} {place_phrase(place)}",
    )
    return phrasings[int(np.random.default_rng([seed, 0x5CA]).integers(len(phrasings)))]


def _eyes(x: float, y: float, apart: float, size: float) -> list[Part]:
    found: list[Part] = []
    for side in (-1, 1):
        found += [(oval(x + side * apart, y, size, size * 1.2), (255, 255, 255)),
                  (oval(x + side * apart, y + 0.02, size * 0.45, size * 0.6), (20, 20, 30))]  # fmt: skip
    return found


def _sunflower() -> list[Part]:
    parts: list[Part] = [(band([(0, 0.1), (0.05, 0.5), (0, 0.98)], 0.16), (70, 140, 60))]
    parts += [(band([(0, 0.6), (s * 0.4, 0.45), (s * 0.7, 0.2)], 0.14), (70, 140, 60)) for s in (-1, 1)]
    for angle in np.arange(12) * math.pi / 6:
        x, y = 0.52 * math.cos(angle), -0.4 + 0.52 * math.sin(angle)
        tip = polygon((x - 0.17 * math.sin(angle), y + 0.17 * math.cos(angle)),
                      (1.25 * (x) + 0.12 * math.cos(angle), -0.4 + 1.35 * (y + 0.4)),
                      (x + 0.17 * math.sin(angle), y - 0.17 * math.cos(angle)))  # fmt: skip
        parts.append((tip, (250, 196, 30)))
    parts += [(oval(0, -0.4, 0.5, 0.5), (120, 70, 34)), *_eyes(0, -0.5, 0.19, 0.13)]
    return [*parts, (band([(-0.22, -0.24), (0, -0.12), (0.22, -0.24)], 0.07), (250, 230, 210))]


def _scarf_cat() -> list[Part]:
    grey, stripe, scarf = (88, 160, 168), (30, 74, 96), (222, 50, 60)
    parts: list[Part] = [(band([(0.35, 0.7), (0.8, 0.6), (0.9, 0.1), (0.7, -0.1)], 0.16), grey)]
    parts.append((rounded(polygon((-0.3, -0.1), (0.3, -0.1), (0.5, 0.95), (-0.5, 0.95))), grey))
    parts += [(band([(-0.38, y), (0, y + 0.08), (0.38, y)], 0.09), stripe) for y in (0.4, 0.62, 0.84)]
    head = polygon(
        (-0.55, -0.1), (-0.62, -0.98), (-0.3, -0.68), (0.3, -0.68), (0.62, -0.98), (0.55, -0.1), (0, 0.08)
    )
    parts += [
        (head, grey),
        (band([(-0.2, -0.66), (0, -0.5), (0.2, -0.66)], 0.08), stripe),
        *_eyes(0, -0.34, 0.24, 0.14),
    ]
    parts += [(polygon((-0.07, -0.14), (0.07, -0.14), (0, -0.04)), (240, 140, 150))]
    return [*parts, (band([(-0.45, 0.0), (0, 0.16), (0.45, 0.0)], 0.2), scarf),
            (polygon((0.2, 0.05), (0.44, 0.02), (0.5, 0.55), (0.28, 0.55)), scarf)]  # fmt: skip


def _taxi_beetle() -> list[Part]:
    shell = np.concatenate(
        [oval(0, 0.35, 0.95, 1.05, start=math.pi, end=2 * math.pi), polygon((0.95, 0.5), (-0.95, 0.5))]
    )
    parts: list[Part] = [
        (band([(s * 0.25, -0.55), (s * 0.4, -0.85), (s * 0.6, -0.95)], 0.06), (40, 40, 50)) for s in (-1, 1)
    ]
    parts += [(shell, (236, 190, 40)), (band([(0, -0.7), (0, 0), (0, 0.5)], 0.07), (40, 40, 50))]
    parts += [(polygon((x, y), (x + 0.16, y), (x + 0.16, y + 0.14), (x, y + 0.14)), (30, 30, 36))
              for x, y in ((-0.9, 0.16), (-0.58, 0.16), (-0.26, 0.16), (0.1, 0.16), (0.42, 0.16), (0.74, 0.16),
                           (-0.74, 0.3), (-0.42, 0.3), (0.26, 0.3), (0.58, 0.3))]  # fmt: skip
    parts += [(oval(x, 0.62, 0.3, 0.3), (50, 46, 60)) for x in (-0.5, 0.5)]
    parts += [(oval(x, 0.62, 0.13, 0.13), (220, 80, 90)) for x in (-0.5, 0.5)]
    return [*parts, *_eyes(0, -0.25, 0.34, 0.2)]


def _clockwork_duck() -> list[Part]:
    brass, steel = (196, 142, 62), (120, 130, 146)
    parts: list[Part] = [
        (polygon((0.55, -0.2), (0.95, -0.5), (0.95, -0.1)), steel),
        (polygon((0.55, -0.1), (0.95, 0.2), (0.95, -0.1)), steel),
    ]
    parts += [
        (polygon((-0.55, 0.05), (0.6, -0.2), (0.75, 0.5), (0.35, 0.8), (-0.4, 0.8), (-0.7, 0.45)), brass)
    ]
    parts += [(polygon((-0.55, 0.2), (-0.55, -0.4), (-0.2, -0.4), (-0.2, 0.2)), steel)]
    parts += [(polygon((-0.8, -0.35), (-0.8, -0.9), (-0.05, -0.9), (-0.05, -0.35)), brass)]
    parts += [(polygon((-0.8, -0.7), (-1.0, -0.55), (-0.8, -0.42)), (230, 80, 40)),
              (oval(-0.5, -0.68, 0.16, 0.16), (255, 255, 255)),
              (oval(-0.5, -0.68, 0.07, 0.07), (20, 20, 30))]  # fmt: skip
    parts += [(oval(0.1, 0.3, 0.26, 0.26), steel), (oval(0.1, 0.3, 0.11, 0.11), brass)]
    parts += [
        (oval(x, y, 0.05, 0.05), (80, 54, 20))
        for x, y in ((-0.4, 0.6), (0.45, 0.6), (0.5, 0.0), (-0.45, 0.2))
    ]
    return [
        *parts,
        *(
            (polygon((x, 0.78), (x + 0.1, 0.78), (x + 0.1, 0.98), (x - 0.1, 0.98)), steel)
            for x in (-0.2, 0.2)
        ),
    ]


def _pufferfish() -> list[Part]:
    skin, belly = (240, 120, 70), (255, 236, 200)
    parts: list[Part] = []
    for angle in np.arange(14) * 2 * math.pi / 14:
        c, s = math.cos(angle), math.sin(angle)
        parts.append(
            (
                polygon(
                    (0.7 * c - 0.1 * s, 0.7 * s + 0.1 * c),
                    (0.98 * c, 0.98 * s),
                    (0.7 * c + 0.1 * s, 0.7 * s - 0.1 * c),
                ),
                (150, 60, 120),
            )
        )
    parts += [(oval(0, 0, 0.75, 0.75), skin), (oval(0, 0.3, 0.55, 0.4), belly)]
    parts += [
        (oval(x, y, 0.09, 0.09), (150, 60, 120))
        for x, y in ((-0.35, -0.5), (0.05, -0.6), (0.4, -0.45), (0.58, -0.1))
    ]
    parts += [
        (polygon((0.62, 0), (0.98, -0.3), (0.98, 0.3)), (150, 60, 120)),
        *_eyes(-0.15, -0.18, 0.28, 0.17),
    ]
    return [*parts, (oval(-0.15, 0.2, 0.12, 0.08), (120, 30, 40))]


def _mushroom_house() -> list[Part]:
    cap = np.concatenate(
        [oval(0, 0, 0.98, 0.95, start=math.pi, end=2 * math.pi), polygon((0.6, 0.12), (-0.6, 0.12))]
    )
    parts: list[Part] = [
        (rounded(polygon((-0.42, 0), (0.42, 0), (0.55, 0.98), (-0.55, 0.98)), 1), (244, 232, 206))
    ]
    parts += [(cap, (170, 40, 120))]
    parts += [
        (oval(x, y, r, r), (252, 246, 236))
        for x, y, r in ((-0.5, -0.3, 0.17), (0.05, -0.6, 0.2), (0.55, -0.28, 0.15), (0, -0.12, 0.12))
    ]
    parts += [
        (
            np.concatenate(
                [
                    oval(-0.12, 0.6, 0.17, 0.2, start=math.pi, end=2 * math.pi),
                    polygon((0.05, 0.98), (-0.29, 0.98)),
                ]
            ),
            (60, 110, 160),
        )
    ]
    return [*parts, (oval(0.27, 0.45, 0.12, 0.12), (120, 210, 220))]


TUNING: dict[str, Character] = {
    "sunflower": Character("flower", _sunflower),
    "scarf cat": Character("cat", _scarf_cat),
    "taxi beetle": Character("car", _taxi_beetle),
}
"""Characters on which rules and thresholds are chosen."""

TEST: dict[str, Character] = {
    "clockwork duck": Character("duck", _clockwork_duck),
    "pufferfish": Character("fish", _pufferfish),
    "mushroom house": Character("house", _mushroom_house),
}
"""Characters on which nothing was chosen."""

CHARACTERS: dict[str, Character] = TUNING | TEST
