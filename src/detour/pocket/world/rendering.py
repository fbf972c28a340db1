"""Renders a scene in a style to pixels."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from detour.pocket.world import texture
from detour.pocket.world.geometry import Array, clamp, ellipse
from detour.pocket.world.layers import Layer, mixed
from detour.pocket.world.scene import Scene, Thing
from detour.pocket.world.scenery import scenery_layers
from detour.pocket.world.silhouettes import SILHOUETTES, Tone
from detour.pocket.world.style import Style
from detour.pocket.world.vocabulary import COLOUR_VALUES, Colour

REFERENCE_PX = 128
_BLACK: Colour = (0.05, 0.05, 0.07)
_WHITE: Colour = (1.0, 1.0, 1.0)
Rng = np.random.Generator


def render(scene: Scene, style: Style, *, size_px: int = REFERENCE_PX) -> NDArray[np.uint8]:
    """Draw the scene in the style; same arguments, same bytes.

    Args:
        scene: what to draw.
        style: how; its lengths are in pixels of a picture of 128 and grow with ``size_px``.
        size_px: side of the picture.

    Returns:
        (size_px, size_px, 3) uint8 RGB.
    """
    rng = np.random.default_rng([scene.seed, 0x2D2A])
    num_px = max(8, round(size_px / style.cell_px))
    x_px, y_px = _grid(num_px)
    x, y = x_px / np.float32(REFERENCE_PX), y_px / np.float32(REFERENCE_PX)
    scene_rng, hand_rng, texture_rng = rng.spawn(3)
    if style.wobble_px > 0:
        reach = np.float32(style.wobble_px / REFERENCE_PX)
        x = x + reach * texture.smooth_noise(hand_rng, num_px, (14, 14))
        y = y + reach * texture.smooth_noise(hand_rng, num_px, (14, 14))
    layers = scenery_layers(scene.place, scene.sky, scene_rng, x, y)
    for thing in scene.things:
        layers += _thing_layers(thing, x, y)
    canvas = _paint(layers, style, texture_rng, num_px)
    canvas = _finish(canvas, style, texture_rng, x_px, y_px)
    pixels = (np.clip(canvas, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)
    if num_px != size_px:
        index = np.arange(size_px) * num_px // size_px
        pixels = pixels[:, index[:, None], index[None, :]]
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))


@lru_cache(maxsize=16)
def _grid(num_px: int) -> tuple[Array, Array]:
    """Pixel centres in pixels of a picture of 128."""
    centres = (np.arange(num_px, dtype=np.float32) + np.float32(0.5)) * np.float32(REFERENCE_PX / num_px)
    y, x = np.meshgrid(centres, centres, indexing="ij")
    return x, y


def thing_body(thing: Thing, x: Array, y: Array) -> Array:
    """Signed distance of each point to the outline of a thing, negative inside, as a share of the picture's side.

    Args:
        thing: what and where.
        x: the points' horizontal places as shares of the picture's width, rightwards.
        y: the points' vertical places as shares of its height, downwards.
    """
    u, v = _own_coordinates(thing, x, y)
    return SILHOUETTES[thing.kind](u, v).body * np.float32(thing.size / 2)


def _own_coordinates(thing: Thing, x: Array, y: Array) -> tuple[Array, Array]:
    """Coordinates in the thing's own square, which reaches from -1 to 1, rightwards and upwards."""
    half = thing.size / 2
    dx, dy = (x - np.float32(thing.x)) / np.float32(half), (np.float32(thing.y) - y) / np.float32(half)
    cos, sin = np.float32(np.cos(thing.tilt)), np.float32(np.sin(thing.tilt))
    u, v = cos * dx + sin * dy, cos * dy - sin * dx
    return (-u if thing.mirrored else u), v


def _thing_layers(thing: Thing, x: Array, y: Array) -> list[Layer]:
    half = thing.size / 2
    u, v = _own_coordinates(thing, x, y)
    shape = SILHOUETTES[thing.kind](u, v)
    colour = COLOUR_VALUES[thing.colour]
    light = clamp(np.asarray(np.float32(0.75) * v - np.float32(0.35) * u, np.float32), -1, 1)
    scale = np.float32(half)
    shadow = ellipse(x, y, (thing.x, thing.y + half * 0.98), (half * 0.85, half * 0.12))
    layers = [
        Layer(distance=shadow, colour=_BLACK, role="shadow", opacity=0.22, rim=0.0),
        Layer(distance=shape.body * scale, colour=colour, role="thing", light=light),
    ]
    for distance, tone in shape.details:
        clipped = np.maximum(distance, shape.body) * scale
        layers.append(
            Layer(distance=clipped, colour=_toned(colour, tone), role="detail", light=light, rim=0.5)
        )
    return layers


def _toned(colour: Colour, tone: Tone) -> Colour:
    shades: dict[Tone, tuple[Colour, float]] = {
        "dark": (_BLACK, 0.26),
        "deep": (_BLACK, 0.55),
        "light": (_WHITE, 0.5),
        "white": (_WHITE, 1.0),
        "black": (_BLACK, 0.9),
    }
    target, share = shades[tone]
    return mixed(colour, target, share)


def _paint(layers: list[Layer], style: Style, rng: Rng, num_px: int) -> Array:
    """(3, num_px, num_px) float32: the layers over one another, with their lines."""
    canvas = np.empty((3, num_px, num_px), np.float32)
    canvas[:] = _column(style.ground)
    px = REFERENCE_PX / num_px
    # Squares are meant to be seen as squares: an edge is blended less than a whole one.
    blend_px = px if style.cell_px <= 1 else 0.4 * px
    pigment = texture.clouds(rng, num_px) if style.bleed > 0 else None
    for layer in layers:
        shadow = layer.role == "shadow"
        softness = max(4.0 if shadow else 0.0, style.softness_px, blend_px)
        distance = np.asarray(layer.distance * np.float32(REFERENCE_PX), np.float32)
        fill = _fill(layer, style)
        if pigment is not None and not shadow:
            distance, fill = _washed(distance, fill, pigment, layer, style)
        strength = layer.opacity * (style.fill if shadow else 1.0)
        canvas += _coverage(distance, softness) * np.float32(strength) * (fill - canvas)
        width = style.outline_px * layer.rim
        if width > 0:
            line = _column(_ink(layer, style))
            # Lines thinner than a pixel fade, they do not vanish.
            presence = np.float32(min(1.0, width / px))
            drawn = _coverage(np.abs(distance) - np.float32(width / 2), softness) * presence
            canvas += drawn * (line - canvas)
            if style.glow_px > 0:
                halo = np.exp(np.abs(distance) * np.float32(-1 / style.glow_px)) * np.float32(0.55)
                canvas += halo * line * (np.float32(1) - np.minimum(canvas, np.float32(1)))
    return canvas


def _washed(distance: Array, fill: Array, pigment: Array, layer: Layer, style: Style) -> tuple[Array, Array]:
    """Paint a layer as watercolour: a blurred edge, with pigment gathered along it and uneven inside."""
    one = np.float32(1)
    ran = np.asarray(distance + np.float32(1.6 * style.bleed) * pigment, np.float32)
    gathered = np.exp(np.minimum(ran, np.float32(0)) * np.float32(0.45)) if layer.rim > 0 else np.float32(0)
    density = one + np.float32(style.bleed) * (
        np.float32(0.55) * gathered - np.float32(0.12) + np.float32(0.4) * pigment
    )
    ground = _column(style.ground)
    return ran, np.asarray(ground - (ground - fill) * density, np.float32)


def _coverage(distance: Array, softness: float) -> Array:
    return clamp(np.float32(0.5) - distance * np.float32(1 / softness), 0, 1)


def _column(colour: Colour) -> Array:
    return np.array(colour, np.float32).reshape(3, 1, 1)


def _fill(layer: Layer, style: Style) -> Array:
    """Colour of a layer's inside: (3, 1, 1), or (3, height, width) where it has a gradient."""
    if layer.role == "shadow":
        return _column(layer.colour)
    fill = _column(mixed(style.ground, _graded(layer.colour, layer, style), style.fill))
    if layer.second is not None and layer.blend is not None:
        second = _column(mixed(style.ground, _graded(layer.second, layer, style), style.fill))
        fill = fill + layer.blend * (second - fill)
    if layer.light is not None and style.shading > 0:
        fill = fill * (np.float32(1) + np.float32(0.32 * style.shading) * (layer.light - np.float32(0.3)))
    return np.asarray(fill, np.float32)


def _graded(colour: Colour, layer: Layer, style: Style) -> Colour:
    """Colour in the style's palette; things change less than scenery, because their colour word must stay true."""
    own = layer.role in ("thing", "detail")
    saturation = max(style.saturation, 0.78) if own else style.saturation
    lightness = min(max(style.lightness, -0.11), 0.18) if own else style.lightness
    warmth = style.warmth * (0.35 if own else 1.0)
    grey = 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2]
    mono = (grey, grey, grey)
    graded = mixed(mono, colour, saturation)
    graded = mixed(graded, _WHITE if lightness > 0 else _BLACK, abs(lightness))
    r, g, b = graded
    return min(1.0, r * (1 + 0.16 * warmth)), g * (1 - 0.03 * abs(warmth)), min(1.0, b * (1 - 0.32 * warmth))


def _ink(layer: Layer, style: Style) -> Colour:
    if style.ink == "black":
        return _BLACK
    if style.ink == "white":
        return _WHITE
    own = _graded(layer.colour, layer, style)
    if style.ink == "bright":
        peak = max(max(own), 0.05)
        share = 1.0 if layer.role in ("thing", "detail") else 0.55
        return mixed(style.ground, (own[0] / peak, own[1] / peak, own[2] / peak), share)
    return mixed(own, _BLACK, 0.45)


def _finish(canvas: Array, style: Style, rng: Rng, x_px: Array, y_px: Array) -> Array:
    """Add what covers the whole picture: glass, ruled lines, the texture of fills, the grain of paper."""
    num_px = canvas.shape[-1]
    if style.facet_px > 0:
        joint, shade = texture.facets(rng, x_px, y_px, size_px=style.facet_px, extent_px=REFERENCE_PX)
        canvas = canvas * (np.float32(1) + np.float32(0.22) * shade)
        lead = _coverage(joint - np.float32(0.9), max(1.0, REFERENCE_PX / num_px))
        canvas = canvas + lead * (_column(_BLACK) - canvas)
    if style.grid_px > 0:
        spacing = np.float32(style.grid_px)
        away = np.minimum(np.abs(x_px % spacing - spacing / 2), np.abs(y_px % spacing - spacing / 2))
        canvas = canvas + np.float32(0.13) * _coverage(away - np.float32(0.3), 1.0) * (np.float32(1) - canvas)
    amount = np.float32(style.texture_amount)
    if style.texture == "grain":
        canvas = canvas + np.float32(0.1) * amount * texture.paper_grain(rng, num_px)
    elif style.texture == "brush":
        strokes = texture.smooth_noise(rng, num_px, (60, 9)) + np.float32(0.5) * texture.smooth_noise(
            rng, num_px, (90, 24)
        )
        canvas = canvas * (np.float32(1) + np.float32(0.3) * amount * strokes)
    elif style.texture in ("hatch", "dots"):
        darkness = np.float32(1) - canvas.mean(axis=0)
        if style.texture == "hatch":
            mark = texture.stripes(x_px, y_px, spacing_px=style.texture_px, width=0.42)
        else:
            mark = texture.dots(x_px, y_px, spacing_px=style.texture_px, darkness=darkness)
        canvas = canvas * (np.float32(1) - np.float32(0.42) * amount * mark)
    if style.paper > 0:
        tooth = texture.paper_grain(rng, num_px)
        canvas = canvas * (np.float32(1) + np.float32(0.09 * style.paper) * tooth)
        if style.texture == "hatch":
            bare = np.clip(tooth - np.float32(0.55), np.float32(0), np.float32(1)) * np.float32(style.paper)
            canvas = canvas + bare * (_column(style.ground) - canvas)
    return canvas
