"""A layer of a scene: one shape's distance and colour, before any style."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from detour.pocket.world.geometry import Array
from detour.pocket.world.vocabulary import Colour

Role = Literal["sky", "scenery", "thing", "detail", "shadow"]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One shape with its colour that a style paints; layers are ordered from back to front.

    Attributes:
        distance: (height, width) float32 signed distance in picture units (1 is the picture's side).
        colour: of the fill.
        role: what the shape is a part of; styles keep colour words true on things.
        second: the colour that ``blend`` leads to, for skies and shaded grounds.
        blend: (height, width) float32 from 0 to 1.
        light: (height, width) float32 from -1 (in shade) to 1 (lit), for things.
        opacity: of the fill.
        rim: factor on the style's outline; 0 has none.
    """

    distance: Array
    colour: Colour
    role: Role
    second: Colour | None = None
    blend: Array | None = None
    light: Array | None = None
    opacity: float = 1.0
    rim: float = 1.0


def mixed(first: Colour, second: Colour, share: float) -> Colour:
    """Interpolate from the first colour to the second by ``share``."""
    r, g, b = ((1 - share) * a + share * c for a, c in zip(first, second, strict=True))
    return r, g, b


def everywhere(like: Array) -> Array:
    """Signed distance of a shape that covers the whole picture."""
    return np.full(like.shape, -10.0, np.float32)
