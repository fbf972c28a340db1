"""The space of styles: changes of a scene's distances and colours before they become pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from detour.pocket.world.vocabulary import Colour

Ink = Literal["own", "black", "white", "bright"]
Texture = Literal["flat", "grain", "hatch", "dots", "brush"]


@dataclass(frozen=True, kw_only=True)
class Style:
    """A point of the style space. The defaults are the house style.

    Lengths are in pixels of a picture of 128; they grow with the picture.

    Attributes:
        outline_px: width of the line around every shape; 0 is none.
        ink: colour of that line; ``own`` is a darker and ``bright`` a brighter shade of the shape's colour.
        wobble_px: how far the drawing hand strays.
        texture: what the fills are made of.
        texture_amount: from 0 to 1.
        texture_px: distance of two strokes or dots.
        softness_px: width of the blend across an edge; 1 is plain anti-aliasing.
        saturation: factor on colours (things are held where their colour word stays true).
        lightness: from -1 (black) to 1 (white), the same care taken.
        warmth: from -1 (towards blue) to 1 (towards orange), the same care taken.
        shading: strength of the light from above on things.
        paper: strength of the ground's grain showing through.
        ground: colour of the paper under everything.
        fill: share of a shape's own colour over the ground.
        bleed: watercolour: pigment that gathers at edges and clouds inside.
        glow_px: reach of the light that lines give off.
        facet_px: size of the glass pieces that the picture is cut in; 0 is none.
        cell_px: side of the squares that the picture is made of; 1 is none.
        grid_px: distance of ruled lines on the ground; 0 is none.
    """

    outline_px: float = 1.3
    ink: Ink = "own"
    wobble_px: float = 0.0
    texture: Texture = "flat"
    texture_amount: float = 0.0
    texture_px: float = 5.0
    softness_px: float = 1.0
    saturation: float = 1.0
    lightness: float = 0.0
    warmth: float = 0.0
    shading: float = 0.25
    paper: float = 0.0
    ground: Colour = (1.0, 1.0, 1.0)
    fill: float = 1.0
    bleed: float = 0.0
    glow_px: float = 0.0
    facet_px: float = 0.0
    cell_px: float = 1.0
    grid_px: float = 0.0


HOUSE = Style()

NAMED_STYLES: dict[str, Style] = {
    "comic": Style(
        outline_px=3.4,
        ink="black",
        texture="dots",
        texture_amount=0.8,
        texture_px=4.6,
        saturation=1.2,
        shading=0.0,
    ),
    "watercolour": Style(
        outline_px=0.0,
        wobble_px=1.6,
        softness_px=2.4,
        texture="brush",
        texture_amount=0.25,
        saturation=0.95,
        lightness=0.12,
        shading=0.0,
        paper=0.8,
        ground=(1.0, 0.98, 0.93),
        fill=0.86,
        bleed=0.9,
    ),
    "stained glass": Style(
        outline_px=4.0,
        ink="black",
        saturation=1.25,
        shading=0.0,
        facet_px=26.0,
    ),
    "blueprint": Style(
        outline_px=1.7,
        ink="white",
        ground=(0.06, 0.22, 0.58),
        fill=0.1,
        shading=0.0,
        grid_px=8.0,
    ),
    "neon": Style(
        outline_px=2.2,
        ink="bright",
        saturation=1.2,
        ground=(0.02, 0.01, 0.06),
        fill=0.16,
        shading=0.0,
        glow_px=4.5,
    ),
    "pixel art": Style(outline_px=4.0, cell_px=4.0, saturation=1.2, shading=0.3),
    "crayon": Style(
        outline_px=2.6,
        ink="own",
        wobble_px=1.6,
        texture="hatch",
        texture_amount=0.8,
        texture_px=4.0,
        paper=0.6,
        ground=(0.98, 0.96, 0.9),
        shading=0.0,
    ),
    "pastel": Style(
        outline_px=0.0,
        texture="grain",
        texture_amount=0.5,
        softness_px=1.6,
        saturation=0.75,
        lightness=0.16,
        warmth=0.3,
        shading=0.5,
    ),
}

PALETTES: dict[str, Style] = {
    "dusk": Style(saturation=0.45, lightness=-0.38, warmth=0.9),
    "fog": Style(saturation=0.3, lightness=0.4, warmth=-0.6),
}
"""Styles that change colours and nothing else; they lie beyond the colours of the random styles that the base saw."""
