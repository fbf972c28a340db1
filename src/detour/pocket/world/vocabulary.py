"""Words of the world as they appear in captions."""

from __future__ import annotations

from dataclasses import dataclass

Colour = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """All words with which captions name the content of a scene.

    Attributes:
        objects: kinds of things in the training stream.
        held_out_subjects: kinds that are never in the training stream.
        colours: what a thing can be.
        places: the scenery; :func:`detour.pocket.world.captions.place_phrase` gives the preposition.
        skies: time of day or weather; the first one is what an unsaid sky means.
        relations: between the first and the second thing; a horizontal flip keeps each of them true.
    """

    objects: tuple[str, ...]
    held_out_subjects: tuple[str, ...]
    colours: tuple[str, ...]
    places: tuple[str, ...]
    skies: tuple[str, ...]
    relations: tuple[str, ...]


COLOUR_VALUES: dict[str, Colour] = {
    "red": (0.88, 0.11, 0.13),
    "orange": (1.0, 0.52, 0.03),
    "yellow": (1.0, 0.87, 0.10),
    "green": (0.10, 0.66, 0.24),
    "blue": (0.10, 0.33, 0.90),
    "purple": (0.50, 0.16, 0.72),
    "pink": (1.0, 0.48, 0.74),
    "white": (0.98, 0.98, 0.98),
}

VOCABULARY = Vocabulary(
    objects=(
        "house",
        "car",
        "boat",
        "star",
        "flower",
        "fish",
        "cat",
        "duck",
        "cup",
        "key",
        "umbrella",
        "butterfly",
        "rocket",
        "chair",
        "heart",
        "crown",
    ),
    held_out_subjects=("robot", "snail", "octopus"),
    colours=tuple(COLOUR_VALUES),
    places=("desert", "forest", "beach", "city", "mountains", "meadow"),
    skies=("by day", "at night", "at sunset", "in the rain", "in the snow"),
    relations=("beside", "above", "on"),
)
DAY = VOCABULARY.skies[0]
