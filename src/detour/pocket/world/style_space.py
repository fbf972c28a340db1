"""Random points of the space of styles, and the words that describe a point."""

from __future__ import annotations

import numpy as np

from detour.pocket.world.held_out import HELD_OUT
from detour.pocket.world.style import Ink, Style, Texture

_INKS: tuple[Ink, ...] = ("own", "black", "white")
_TEXTURES: tuple[Texture, ...] = ("flat", "grain", "hatch", "dots", "brush")
_PAPERS = ((1.0, 1.0, 1.0), (1.0, 0.97, 0.88), (0.9, 0.93, 1.0), (0.93, 0.9, 0.86))


def random_style(rng: np.random.Generator) -> Style:
    """Draw a style with at least one descriptive word that is not near any held-out style.

    Drawn again until both hold; about four draws in five pass.
    """
    while True:
        style = _draw(rng)
        if style_words(style) and HELD_OUT.style_of(style) is None:
            return style


def style_words(style: Style) -> tuple[str, ...]:
    """List every phrase that describes the style, in a fixed order; none for the house style."""
    textures = {"grain": "grainy", "hatch": "hatched", "dots": "dotted", "brush": "brush strokes"}
    lined = style.outline_px >= 1.7
    facts = {
        "thick outlines": style.outline_px >= 2.5,
        "black outlines": lined and style.ink == "black",
        "white outlines": lined and style.ink == "white",
        "no outlines": style.outline_px == 0.0,
        "wobbly": style.wobble_px >= 1.4,
        textures.get(style.texture, ""): style.texture != "flat" and style.texture_amount >= 0.4,
        "soft edges": style.softness_px >= 2.6,
        "pastel colours": style.saturation <= 0.8 and style.lightness >= 0.08,
        "muted colours": style.saturation <= 0.72 and style.lightness < 0.08,
        "vivid colours": style.saturation >= 1.2,
        "dark colours": style.lightness <= -0.12,
        "warm colours": style.warmth >= 0.5,
        "cool colours": style.warmth <= -0.5,
        "strong shading": style.shading >= 0.8,
        "on paper": style.paper >= 0.45,
        "pixelated": style.cell_px >= 3.0,
    }
    return tuple(word for word, holds in facts.items() if holds)


def _draw(rng: np.random.Generator) -> Style:
    def maybe(chance: float, low: float, high: float, otherwise: float) -> float:
        value = float(rng.uniform(low, high))
        return value if rng.random() < chance else otherwise

    textured = rng.random() < 0.55
    # A third keep the house line, so that a texture or a palette is also seen alone.
    kind_of_line = rng.random()
    outline_px = 1.3 if kind_of_line < 0.35 else 0.0 if kind_of_line < 0.5 else float(rng.uniform(1.0, 4.0))
    paper = maybe(0.3, 0.3, 0.9, 0.0)
    return Style(
        outline_px=outline_px,
        ink=_INKS[int(rng.integers(len(_INKS)))] if kind_of_line >= 0.5 else "own",
        wobble_px=maybe(0.35, 0.5, 3.0, 0.0),
        texture=_TEXTURES[int(rng.integers(1, len(_TEXTURES)))] if textured else "flat",
        texture_amount=float(rng.uniform(0.3, 1.0)) if textured else 0.0,
        texture_px=float(rng.uniform(3.6, 8.0)),
        softness_px=maybe(0.25, 1.3, 6.0, 1.0),
        saturation=maybe(0.6, 0.55, 1.3, 1.0),
        lightness=maybe(0.5, -0.22, 0.25, 0.0),
        warmth=maybe(0.5, -1.0, 1.0, 0.0),
        shading=maybe(0.5, 0.0, 1.2, 0.25),
        paper=paper,
        ground=_PAPERS[int(rng.integers(len(_PAPERS)))],
        fill=maybe(0.4, 0.82, 1.0, 1.0),
        cell_px=float(rng.integers(2, 5)) if rng.random() < 0.1 else 1.0,
    )
