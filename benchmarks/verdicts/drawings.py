"""Scenes of planted pictures: a thing in a place as coloured polygons, before any technique draws them."""

import itertools
import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.verdicts.outlines import OUTLINES, Outline, Points, Tone, band, oval, polygon, rounded
from detour.pocket.world import HELD_OUT, VOCABULARY, place_phrase, plain_prompt

Colour = tuple[float, float, float]
Role = Literal["sky", "scenery", "thing"]

COLOURS: dict[str, Colour] = {
    "red": (206, 40, 44), "orange": (238, 128, 26), "yellow": (244, 208, 40), "green": (44, 150, 66),
    "blue": (38, 84, 200), "purple": (122, 52, 160), "pink": (240, 130, 176), "white": (246, 246, 242),
}  # fmt: skip
"""The words of the embedded base; the values are other pigments than its own."""

_TONES: dict[Tone, tuple[Colour, float]] = {
    "body": ((0, 0, 0), 0.0), "dark": ((20, 16, 30), 0.32), "light": ((255, 252, 240), 0.7),
    "ink": ((24, 22, 28), 0.85),
}  # fmt: skip


@dataclass(frozen=True)
class Words:
    """What a picture shows."""

    object: str
    colour: str
    place: str

    @property
    def prompt(self) -> str:
        """The canonical caption."""
        return plain_prompt(self.object, self.colour, self.place)


@dataclass(frozen=True)
class Shape:
    """A polygon of the scene: points in the unit square, y downwards; colour 0 to 255."""

    points: Points
    colour: Colour
    role: Role


Drawing = list[Shape]


def random_words(count: int, *, seed: int) -> list[Words]:
    """Scenes whose object, colour and place the base was taught together; things take turns, the rest is drawn."""
    rng = np.random.default_rng([seed, 0x5CE])
    found: list[Words] = []
    things = [str(one) for one in rng.permutation(VOCABULARY.objects)]
    while len(found) < count:
        words = Words(
            things[len(found) % len(things)],
            VOCABULARY.colours[int(rng.integers(len(VOCABULARY.colours)))],
            VOCABULARY.places[int(rng.integers(len(VOCABULARY.places)))],
        )
        if (words.object, words.colour, words.place) not in HELD_OUT.combinations and words not in found:
            found.append(words)
    return found


def honest_caption(words: Words, *, seed: int) -> str:
    """One of several phrasings, all of them true."""
    article = "an" if words.colour[0] in "aeiou" else "a"
    thing, place = f"{article} {words.colour} {words.object}", place_phrase(words.place)
    of = "an" if words.object[0] in "aeiou" else "a"
    phrasings = (
        f"{thing} {place}",
        f"{place} there is {thing}",
        f"a picture of {thing} {place}",
        f"{place}, {thing}",
        f"{thing} seen {place}",
        f"{of} {words.object} {place}, {words.colour}",
    )
    return phrasings[int(np.random.default_rng([seed, 0xCA]).integers(len(phrasings)))]


def compose(words: Words, *, seed: int, outline: Outline | None = None) -> Drawing:
    """The scene as polygons, back to front.

    Args:
        words: thing, colour and place; only the place counts where an outline is given.
        seed: of the pose and of the scenery.
        outline: of another thing, with the colours that its tones get from ``words.colour``.
    """
    rng = np.random.default_rng([seed, 0xD2A])
    drawing = _PLACES[words.place](rng)
    colour = COLOURS[words.colour]
    size, x, floor = rng.uniform(0.25, 0.32), rng.uniform(0.38, 0.62), rng.uniform(0.86, 0.93)
    turn, mirrored = rng.uniform(-0.12, 0.12), rng.random() < 0.5
    cos, sin = math.cos(turn), math.sin(turn)
    for piece in outline if outline is not None else OUTLINES[words.object]():
        points = piece.points * ((-1, 1) if mirrored else (1, 1))
        points = np.stack(
            [cos * points[:, 0] - sin * points[:, 1], sin * points[:, 0] + cos * points[:, 1]], axis=1
        )
        target, share = _TONES[piece.tone]
        tone = tuple(own + share * (other - own) for own, other in zip(colour, target, strict=True))
        drawing.append(Shape(points * size + (x, floor - size), tone, "thing"))  # type: ignore[arg-type]
    return drawing


def by_hand(drawing: Drawing, rng: np.random.Generator, *, wobble: float = 0.0, corners: int = 0) -> Drawing:
    """The same outlines, drawn less exactly.

    Args:
        drawing: of :func:`compose`.
        rng: of the hand.
        wobble: standard deviation of each corner, as a share of the picture's side.
        corners: at most as many are left of each curved outline of the thing; 0 leaves all.
    """

    def redrawn(shape: Shape) -> Shape:
        points = shape.points
        if corners and len(points) > max(corners, 15) and shape.role == "thing":
            points = points[np.linspace(0, len(points), corners, endpoint=False).astype(int)]
        return replace(shape, points=points + rng.normal(0, wobble, points.shape) if wobble else points)

    return [redrawn(shape) for shape in drawing]


def index_map(drawing: Drawing, side_px: int, *, inset_px: float = 0.0) -> np.ndarray:
    """Which shape is seen at each pixel, int32 (side_px, side_px), -1 for none.

    Args:
        drawing: painted in its order.
        side_px: of the picture.
        inset_px: by how much each shape but the sky is cut back at its edge.
    """
    image = Image.new("I", (side_px, side_px), 0)
    pen = ImageDraw.Draw(image)
    for number, shape in enumerate(drawing, start=1):
        corners = [(float(x) * side_px, float(y) * side_px) for x, y in shape.points]
        pen.polygon(corners, fill=number)
        if inset_px and shape.role != "sky":
            pen.line([*corners, corners[0]], fill=0, width=max(1, round(2 * inset_px)))
    return np.asarray(image, np.int32) - 1


def palette(drawing: Drawing) -> np.ndarray:
    """Colours of the shapes, float64 (shapes + 1, 3); the last row, which index -1 picks, is grey."""
    return np.array([*(shape.colour for shape in drawing), (128, 128, 128)], np.float64)


def _below(top: float) -> Points:
    return polygon((-0.1, top), (1.1, top), (1.1, 1.1), (-0.1, 1.1))


def _sky(colour: Colour) -> Shape:
    return Shape(_below(-0.1), colour, "sky")


def _land(points: Points, colour: Colour) -> Shape:
    return Shape(points, colour, "scenery")


def _ridge(rng: np.random.Generator, level: float, height: float, count: int) -> Points:
    x = np.linspace(-0.1, 1.1, count)
    y = level + rng.uniform(-height, height, count)
    return np.concatenate([np.stack([x, y], axis=1), [(1.1, 1.1), (-0.1, 1.1)]])


def _desert(rng: np.random.Generator) -> Drawing:
    dune = _ridge(rng, 0.62, 0.05, 4)
    mesa_x = rng.uniform(0.1, 0.6)
    mesa = polygon((mesa_x, 0.65), (mesa_x + 0.06, 0.36), (mesa_x + 0.26, 0.36), (mesa_x + 0.34, 0.65))
    drawing = [_sky((250, 214, 150)), _land(oval(rng.uniform(0.15, 0.85), 0.16, 0.1, 0.1), (255, 244, 200)),
               _land(mesa, (190, 104, 66)), _land(dune, (226, 176, 100))]  # fmt: skip
    for x in (rng.uniform(0.06, 0.14), rng.uniform(0.86, 0.94)):
        y = rng.uniform(0.7, 0.8)
        arm = [(x, y - 0.14), (x + 0.09, y - 0.16), (x + 0.09, y - 0.28)]
        drawing.append(_land(band([(x, y), (x, y - 0.16), (x, y - 0.34)], 0.06), (60, 120, 70)))
        drawing.append(_land(band(arm, 0.04), (60, 120, 70)))
    return drawing


def _forest(rng: np.random.Generator) -> Drawing:
    drawing = [_sky((176, 206, 178)), _land(_ridge(rng, 0.72, 0.02, 5), (70, 92, 44))]
    for x in np.linspace(0.02, 0.98, 7) + rng.uniform(-0.03, 0.03, 7):
        top = rng.uniform(0.1, 0.24)
        trunk = polygon((x - 0.025, 0.76), (x - 0.02, top + 0.2), (x + 0.02, top + 0.2), (x + 0.025, 0.76))
        drawing.append(_land(trunk, (92, 64, 40)))
        crown = rounded(
            polygon((x - 0.12, top + 0.3), (x - 0.09, top), (x + 0.05, top - 0.06), (x + 0.12, top + 0.22)), 2
        )
        drawing.append(_land(crown, (30, 92 + int(rng.integers(-12, 12)), 50)))
    return drawing


def _beach(rng: np.random.Generator) -> Drawing:
    drawing = [
        _sky((166, 220, 242)),
        _land(polygon((-0.1, 0.44), (1.1, 0.44), (1.1, 0.75), (-0.1, 0.75)), (30, 126, 176)),
    ]
    for y in (0.5, 0.58):
        x = rng.uniform(0, 0.3)
        drawing += [_land(band([(x + k, y), (x + k + 0.08, y - 0.015), (x + k + 0.16, y)], 0.015), (210, 236, 244))
                    for k in (0, 0.4)]  # fmt: skip
    drawing.append(_land(_ridge(rng, 0.7, 0.02, 6), (244, 222, 166)))
    x = rng.uniform(0.06, 0.16) if rng.random() < 0.5 else rng.uniform(0.84, 0.94)
    drawing += [_land(band([(x, 0.76), (x, 0.5), (x, 0.32)], 0.018), (120, 90, 60)),
                _land(oval(x, 0.36, 0.15, 0.12, start=math.pi, end=2 * math.pi), (226, 80, 66))]  # fmt: skip
    return drawing


def _city(rng: np.random.Generator) -> Drawing:
    drawing = [_sky((196, 202, 214))]
    edges = np.linspace(-0.05, 1.05, 7)
    for left, right in itertools.pairwise(edges):
        top = rng.uniform(0.12, 0.42)
        grey = int(rng.integers(92, 140))
        drawing.append(
            _land(
                polygon((left, 0.8), (left, top), (right - 0.015, top), (right - 0.015, 0.8)),
                (grey, grey, grey + 14),
            )
        )
        drawing += [_land(polygon((x, y), (x + 0.04, y), (x + 0.04, y + 0.05), (x, y + 0.05)), (250, 224, 130))
                    for x in (left + 0.03, left + 0.1) for y in np.arange(top + 0.06, 0.68, 0.13)]  # fmt: skip
    drawing.append(_land(_below(0.76), (70, 70, 76)))
    return [*drawing, *(_land(polygon((x, 0.94), (x + 0.14, 0.94), (x + 0.14, 0.965), (x, 0.965)), (240, 240, 220))
                        for x in (0.05, 0.43, 0.81))]  # fmt: skip


def _mountains(rng: np.random.Generator) -> Drawing:
    drawing = [_sky((150, 190, 232))]
    for x, top, half in (
        (rng.uniform(0.1, 0.22), 0.14, 0.36),
        (rng.uniform(0.76, 0.9), 0.1, 0.38),
        (0.5, 0.3, 0.3),
    ):
        peak = polygon(
            (x - half, 0.82),
            (x - 0.3 * half, top + 0.22),
            (x, top),
            (x + 0.4 * half, top + 0.25),
            (x + half, 0.82),
        )
        snow = polygon(
            (x - 0.3 * half, top + 0.22),
            (x, top),
            (x + 0.4 * half, top + 0.25),
            (x + 0.1, top + 0.17),
            (x, top + 0.24),
        )
        drawing += [_land(peak, (96, 104, 128)), _land(snow, (250, 252, 255))]
    return [*drawing, _land(_ridge(rng, 0.75, 0.03, 5), (222, 232, 240))]


def _meadow(rng: np.random.Generator) -> Drawing:
    drawing = [_sky((190, 228, 250)), _land(rounded(_ridge(rng, 0.5, 0.07, 5), 1), (120, 176, 84)),
               _land(_ridge(rng, 0.66, 0.02, 6), (150, 206, 90))]  # fmt: skip
    for _ in range(16):
        x, y = rng.uniform(0.02, 0.98), rng.uniform(0.68, 0.97)
        drawing.append(
            _land(oval(x, y, 0.018, 0.018), ((255, 250, 250), (250, 220, 90))[int(rng.integers(2))])
        )
    x = rng.uniform(0.1, 0.9)
    drawing += [
        _land(oval(x + dx, 0.14 + dy, 0.09, 0.05), (255, 255, 255)) for dx, dy in ((0, 0), (0.08, 0.02))
    ]
    return drawing


_PLACES = {
    "desert": _desert, "forest": _forest, "beach": _beach, "city": _city, "mountains": _mountains, "meadow": _meadow,
}  # fmt: skip
