"""Styles, subjects and combinations that the embedded base never sees, read from ``held_out.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from detour.pocket.world.style import Style

Combination = tuple[str, str, str]


@dataclass(frozen=True, kw_only=True)
class StyleRegion:
    """A box in the style space: bounds for numbers, choices for words.

    Attributes:
        bounds: parameter name to (lowest, highest), both inside.
        choices: parameter name to the words inside.
    """

    bounds: Mapping[str, tuple[float, float]]
    choices: Mapping[str, tuple[str, ...]]

    def contains(self, style: Style) -> bool:
        """Whether every bound and every choice holds for the style."""
        return all(low <= getattr(style, name) <= high for name, (low, high) in self.bounds.items()) and all(
            getattr(style, name) in words for name, words in self.choices.items()
        )


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Everything that the training stream never draws.

    Attributes:
        combinations: (object, colour, place), a random tenth of all.
        subjects: kinds of things.
        styles: names of ``NAMED_STYLES``.
        regions: for each held-out style, the boxes around it that random styles stay out of.
    """

    combinations: frozenset[Combination]
    subjects: tuple[str, ...]
    styles: tuple[str, ...]
    regions: Mapping[str, tuple[StyleRegion, ...]]

    def style_of(self, style: Style) -> str | None:
        """Name of the held-out style whose neighbourhood this style lies in, if any."""
        for name, regions in self.regions.items():
            if any(region.contains(style) for region in regions):
                return name
        return None


def read_held_out() -> HeldOut:
    """The lists in ``held_out.json``; a region's numbers are [low, high], its words are choices."""
    text = resources.files(__package__).joinpath("held_out.json").read_text(encoding="utf-8")
    data = json.loads(text)
    return HeldOut(
        combinations=frozenset((kind, colour, place) for kind, colour, place in data["combinations"]),
        subjects=tuple(data["subjects"]),
        styles=tuple(data["styles"]),
        regions={name: tuple(_region(box) for box in boxes) for name, boxes in data["style_regions"].items()},
    )


def _region(box: Mapping[str, list[float] | list[str]]) -> StyleRegion:
    bounds: dict[str, tuple[float, float]] = {}
    choices: dict[str, tuple[str, ...]] = {}
    for name, values in box.items():
        if isinstance(values[0], str):
            choices[name] = tuple(str(value) for value in values)
        else:
            bounds[name] = (float(values[0]), float(values[1]))
    return StyleRegion(bounds=bounds, choices=choices)


HELD_OUT = read_held_out()
