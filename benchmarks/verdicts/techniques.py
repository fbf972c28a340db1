"""Fourteen ways to draw a scene that the embedded base was never shown, each with marks and a palette of its own.

Every technique is deterministic by seed and gives uint8 (128, 128, 3). Half of them set the rules of the verdict, the
other half examines those rules.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from benchmarks.verdicts.drawings import Drawing, by_hand, index_map, palette

SIZE_PX = 128
FINE_PX = 256
Canvas = NDArray[np.float64]
Rng = np.random.Generator
Technique = Callable[[Drawing, Rng], Canvas]


def draw(technique: str, drawing: Drawing, *, seed: int) -> NDArray[np.uint8]:
    """The scene in a technique: uint8 (128, 128, 3), the same for the same seed."""
    fine = TECHNIQUES[technique](drawing, np.random.default_rng([seed, 0x7EC4]))
    small = fine.reshape(SIZE_PX, 2, SIZE_PX, 2, 3).mean(axis=(1, 3))
    return np.clip(small + 0.5, 0, 255).astype(np.uint8)


def _grid() -> tuple[Canvas, Canvas]:
    y, x = np.mgrid[0:FINE_PX, 0:FINE_PX].astype(np.float64)
    return x, y


def _cloud(rng: Rng, cells: int) -> Canvas:
    """Smooth noise of about that many cells a side, mean 0, standard deviation 1."""
    coarse = Image.fromarray(rng.normal(0, 1, (cells, cells)).astype(np.float32))
    smooth = np.asarray(coarse.resize((FINE_PX, FINE_PX), Image.Resampling.BICUBIC), np.float64)
    return (smooth - smooth.mean()) / (smooth.std() + 1e-9)


def _blurred(values: Canvas, radius: float) -> Canvas:
    image = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), np.float64)


def _edges(indices: NDArray[np.int32], width: int = 1) -> Canvas:
    """1 where the shape changes within ``width`` pixels, 0 elsewhere."""
    edge = np.zeros(indices.shape, bool)
    edge[:, 1:] |= indices[:, 1:] != indices[:, :-1]
    edge[1:] |= indices[1:] != indices[:-1]
    image = Image.fromarray((edge * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.MaxFilter(2 * width + 1)), np.float64) / 255


def _things(drawing: Drawing) -> NDArray[np.bool_]:
    """Which shapes belong to the thing, bool (shapes + 1,)."""
    return np.array([*(shape.role == "thing" for shape in drawing), False])


def _skies(drawing: Drawing) -> NDArray[np.bool_]:
    return np.array([*(shape.role == "sky" for shape in drawing), True])


def _luminance(colours: Canvas) -> Canvas:
    return colours @ np.array([0.299, 0.587, 0.114])


def _mix(under: Canvas, over: Canvas, share: Canvas | float) -> Canvas:
    weight = share[..., None] if isinstance(share, np.ndarray) else share
    return under + weight * (over - under)


def chalk(drawing: Drawing, rng: Rng) -> Canvas:
    """Grainy strokes of coloured chalk on a slate board; the sky stays board."""
    drawing = by_hand(drawing, rng, wobble=0.006)
    indices, x, y = index_map(drawing, FINE_PX, inset_px=1.5), *_grid()
    slate = np.array([44, 54, 50.0]) + 5 * _cloud(rng, 6)[..., None] + rng.normal(0, 2, (FINE_PX, FINE_PX, 1))
    angles = rng.uniform(0.3, 1.2, len(drawing) + 1)[indices]
    strokes = np.sin((np.cos(angles) * x + np.sin(angles) * y) * 1.15 + 0.8 * _cloud(rng, 24))
    grain = rng.normal(0, 1, (FINE_PX, FINE_PX))
    covered = (strokes + 0.55 * grain > -0.1) & ~_skies(drawing)[indices]
    pale = _mix(palette(drawing), np.array([255.0, 255, 250]), 0.3)[indices]
    board = _mix(slate, pale, covered * 0.85)
    outline = _edges(index_map(drawing, FINE_PX), 1) * (grain > -0.9)
    return _mix(board, np.array([236.0, 236, 228]), outline * 0.75)


def cut_paper(drawing: Drawing, rng: Rng) -> Canvas:
    """Layers of muted coloured paper, cut with few corners, each with a soft shadow on the one below."""
    drawing = by_hand(drawing, rng, wobble=0.004, corners=9)
    canvas = np.full((FINE_PX, FINE_PX, 3), 235.0)
    for shape in drawing:
        mask = Image.new("L", (FINE_PX, FINE_PX), 0)
        ImageDraw.Draw(mask).polygon(
            [(float(a) * FINE_PX, float(b) * FINE_PX) for a, b in shape.points], fill=255
        )
        inside = np.asarray(mask, np.float64) / 255
        shade = np.roll(_blurred(inside * 255, 4) / 255, (5, 4), axis=(0, 1)) * 0.5
        canvas = _mix(canvas, np.array([40.0, 30, 40]), shade)
        colour = _mix(np.array(shape.colour), np.array([196.0, 178, 160]), 0.3)
        fibres = 4 * _cloud(rng, 90)[..., None] + rng.normal(0, 3, (FINE_PX, FINE_PX, 1))
        canvas = _mix(canvas, colour + fibres, inside)
    return canvas


def ink_on_paper(drawing: Drawing, rng: Rng) -> Canvas:
    """A pen drawing in sepia with thin washes on stained old paper."""
    drawing = by_hand(drawing, rng, wobble=0.004)
    indices, x, y = index_map(drawing, FINE_PX), *_grid()
    paper = np.array([226, 202, 152.0]) + _cloud(rng, 5)[..., None] * np.array([9, 10, 12.0])
    distance = np.hypot(x - FINE_PX / 2, y - FINE_PX / 2) / FINE_PX
    paper -= 60 * np.clip(distance - 0.45, 0, 1)[..., None] * np.array([1, 1.1, 1.3])
    wash = palette(drawing)[indices] / 255
    strength = np.where(_things(drawing)[indices], 0.6, 0.28) * (1 + 0.25 * _cloud(rng, 10))
    canvas = paper * (1 - np.clip(strength, 0, 1)[..., None] * (1 - wash))
    dark = _luminance(palette(drawing))[indices] < 115
    hatch = (np.sin((x + y) * 1.4 + 0.5 * _cloud(rng, 20)) > 0.55) & dark
    pen = np.maximum(_edges(indices, 1) * (0.55 + 0.45 * (_cloud(rng, 30) > -0.6)), hatch * 0.6)
    return _mix(canvas, np.array([52.0, 32, 22]), np.clip(pen, 0, 1))


def stencil(drawing: Drawing, rng: Rng) -> Canvas:
    """Spray paint through a stencil on concrete: bridges across each form, specks beyond its edge; scenery in greys."""
    drawing = by_hand(drawing, rng, corners=12)
    indices, x, y = index_map(drawing, FINE_PX, inset_px=3), *_grid()
    wall = 168 + 8 * _cloud(rng, 7)[..., None] + rng.normal(0, 7, (FINE_PX, FINE_PX, 1)) + np.zeros(3)
    things = _things(drawing)
    grey = _luminance(palette(drawing))[:, None] * np.ones(3)
    paints = np.where(things[:, None], palette(drawing), 0.75 * grey)
    bridges = (np.abs((0.97 * x + 0.24 * y) % 62 - 31) < 2.2) & things[indices]
    sprayed = (~_skies(drawing)[indices] & ~bridges).astype(np.float64)
    mist = _blurred(sprayed * 255, 5) / 255
    covered = np.maximum(sprayed * 0.92, mist * (rng.random(sprayed.shape) < 0.25 * mist))
    return _mix(wall, paints[indices] + rng.normal(0, 6, (FINE_PX, FINE_PX, 1)), covered)


def embroidery(drawing: Drawing, rng: Rng) -> Canvas:
    """Short shiny threads on beige linen, in one direction for each form."""
    drawing = by_hand(drawing, rng, wobble=0.004, corners=14)
    indices, x, y = index_map(drawing, FINE_PX), *_grid()
    weave = 10 * np.sin(x * 1.6) * np.sin(y * 1.6)
    linen = np.array([206, 190, 160.0]) + weave[..., None]
    image = Image.fromarray(np.clip(linen, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    angles = rng.uniform(-0.8, 0.8, len(drawing) + 1) + np.pi / 2 * (rng.random(len(drawing) + 1) < 0.5)
    colours, skies = palette(drawing), _skies(drawing)
    for a, b in rng.permutation([(i, j) for i in range(0, FINE_PX, 5) for j in range(0, FINE_PX, 4)]):
        shape = int(indices[a, b])
        if skies[shape] and rng.random() < 0.75:
            continue
        shade = rng.uniform(0.72, 1.12)
        dx, dy = 6 * np.cos(angles[shape]), 6 * np.sin(angles[shape])
        for offset, light in ((1.5, 0.6), (0, 1.0)):
            colour = tuple(int(min(255, value * shade * light)) for value in colours[shape])
            pen.line(
                [b - dx + offset, a - dy + offset, b + dx + offset, a + dy + offset], fill=colour, width=3
            )
    return np.asarray(image, np.float64)


def graphite(drawing: Drawing, rng: Rng) -> Canvas:
    """Pencil hatching on white paper, crossed where it is dark: no colour at all."""
    drawing = by_hand(drawing, rng, wobble=0.005)
    indices, x, y = index_map(drawing, FINE_PX), *_grid()
    paper = 244 + 3 * _cloud(rng, 40) + rng.normal(0, 2, (FINE_PX, FINE_PX))
    dark = 1 - _luminance(palette(drawing))[indices] / 255
    dark = np.where(_skies(drawing)[indices], 0.25 * dark, dark)
    wave = 0.9 * _cloud(rng, 16)
    canvas = paper
    for a, b, level in ((0.9, 0.45, 0.1), (-0.5, 0.9, 0.4), (0.2, 1.1, 0.62)):
        lines = np.sin((a * x + b * y) * 1.25 + wave) > 0.35 - 0.6 * (dark - level)
        canvas = canvas - 85 * (lines & (dark > level)) * rng.uniform(0.7, 1, lines.shape)
    canvas = canvas - 120 * _edges(indices, 1) * (0.5 + 0.5 * (_cloud(rng, 26) > -0.5))
    return np.clip(canvas, 30, 255)[..., None] * np.array([1.0, 0.995, 0.98])


def neon_sign(drawing: Drawing, rng: Rng) -> Canvas:
    """Glowing glass tubes along the outlines in front of a dark brick wall."""
    drawing = by_hand(drawing, rng, corners=16)
    x, y = _grid()
    row = np.floor(y / 14)
    joint = ((y % 14) < 1.6) | (((x + 16 * (row % 2)) % 32) < 1.6)
    wall = (
        np.array([48, 26, 28.0])
        * (1 + 0.12 * _cloud(rng, 20))[..., None]
        * np.where(joint, 0.55, 1.0)[..., None]
    )
    tubes = Image.new("RGB", (FINE_PX, FINE_PX), 0)
    pen = ImageDraw.Draw(tubes)
    for shape in drawing:
        if shape.role == "sky":
            continue
        width = 5 if shape.role == "thing" else 2
        bright = np.clip(0.35 * np.array(shape.colour) + 0.65 * _vivid(shape.colour), 0, 255)
        bright = bright * (1.0 if shape.role == "thing" else 0.7)
        corners = [(float(a) * FINE_PX, float(b) * FINE_PX) for a, b in shape.points]
        pen.line([*corners, corners[0]], fill=tuple(int(v) for v in bright), width=width, joint="curve")
    glass = np.asarray(tubes, np.float64)
    glow = 1.3 * _blurred(glass, 9) + 0.8 * _blurred(glass, 3)
    core = np.clip((_luminance(glass) - 60) / 90, 0, 1) * 0.35
    return np.clip(_mix(np.clip(wall + glow + glass, 0, 255), np.full(3, 255.0), core), 0, 255)


def _vivid(colour: tuple[float, float, float]) -> Canvas:
    value = np.array(colour)
    spread = value.max() - value.min()
    return np.full(3, 255.0) if spread < 25 else 255 * (value - value.min()) / spread


def low_poly(drawing: Drawing, rng: Rng) -> Canvas:
    """A mesh of flat triangles, each of the colour at its middle and lit by its slope."""
    cells = 20
    indices = index_map(drawing, FINE_PX)
    colours = palette(drawing)
    step = FINE_PX / cells
    nodes = np.stack(np.meshgrid(np.arange(cells + 1), np.arange(cells + 1)), axis=-1) * step
    nodes = nodes + rng.uniform(-0.38, 0.38, nodes.shape) * step
    image = Image.new("RGB", (FINE_PX, FINE_PX), (200, 200, 200))
    pen = ImageDraw.Draw(image)
    for i in range(cells):
        for j in range(cells):
            a, b, c, d = nodes[i, j], nodes[i, j + 1], nodes[i + 1, j + 1], nodes[i + 1, j]
            for corners in ((a, b, c), (a, c, d)) if rng.random() < 0.5 else ((a, b, d), (b, c, d)):
                at = np.clip(np.mean(corners, axis=0), 0, FINE_PX - 1).astype(int)
                colour = colours[indices[at[1], at[0]]] * rng.uniform(0.8, 1.16)
                fill = tuple(int(min(255, value)) for value in colour)
                pen.polygon([(float(p[0]), float(p[1])) for p in corners], fill=fill, outline=fill)
    return np.asarray(image, np.float64)


def stamp(drawing: Drawing, rng: Rng) -> Canvas:
    """Rubber stamps on brown card: the thing in its own ink, scenery in blue rules and dots, gaps between forms."""
    drawing = by_hand(drawing, rng, corners=14)
    indices, x, y = index_map(drawing, FINE_PX, inset_px=2), *_grid()
    card = (
        np.array([190, 158, 118.0]) + 5 * _cloud(rng, 60)[..., None] + rng.normal(0, 4, (FINE_PX, FINE_PX, 1))
    )
    things = _things(drawing)
    kind = rng.integers(0, 3, len(drawing) + 1)[indices]
    pitch = rng.uniform(0.7, 1.5, len(drawing) + 1)[indices]
    rules = np.select([kind == 0, kind == 1], [np.sin(y * pitch) > 0.1, np.sin((x + y) * pitch * 0.7) > 0.1],
                      np.sin(x * pitch * 0.8) * np.sin(y * pitch * 0.8) > 0.15)  # fmt: skip
    inks = np.where(things[:, None], 0.92 * palette(drawing), np.array([36.0, 50, 110]))
    worn = (_cloud(rng, 34) + 0.7 * rng.normal(0, 1, x.shape)) > -1.15
    inked = np.where(things[indices], 0.9, 0.75 * rules) * worn * ~_skies(drawing)[indices]
    return _mix(card, inks[indices], inked)


def mosaic(drawing: Drawing, rng: Rng) -> Canvas:
    """Stone tiles set in dark mortar, none quite straight."""
    indices = index_map(drawing, FINE_PX)
    colours = palette(drawing)
    image = Image.new("RGB", (FINE_PX, FINE_PX), (62, 56, 52))
    pen = ImageDraw.Draw(image)
    tile = 11
    for i, top in enumerate(range(-4, FINE_PX, tile)):
        for left in range(-4 - (i % 2) * 5, FINE_PX, tile):
            centre = np.array([left + tile / 2, top + tile / 2]) + rng.normal(0, 0.6, 2)
            at = np.clip(centre, 0, FINE_PX - 1).astype(int)
            colour = _mix(colours[indices[at[1], at[0]]], np.array([150.0, 130, 110]), 0.15) * rng.uniform(
                0.78, 1.14
            )
            turn, half = rng.normal(0, 0.12), tile / 2 - 1
            arm = half * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
            spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
            corners = [(float(p[0]), float(p[1])) for p in arm @ spin.T + centre]
            pen.polygon(corners, fill=tuple(int(min(255, value)) for value in colour))
    return np.asarray(image, np.float64)


def thermal_print(drawing: Drawing, rng: Rng) -> Canvas:
    """One bit a dot on till paper, with dead columns and pale bands: no colour at all."""
    drawing = by_hand(drawing, rng, corners=18)
    indices = index_map(drawing, FINE_PX)
    bright = _luminance(palette(drawing))[indices]
    bright = np.where(_skies(drawing)[indices], 235, 0.9 * bright)
    bright = np.where(_edges(indices, 1) > 0, 30, bright)
    small = Image.fromarray(np.clip(bright, 0, 255).astype(np.uint8)).resize((FINE_PX // 2, FINE_PX // 2))
    dots = np.asarray(small.convert("1"), np.float64).repeat(2, 0).repeat(2, 1)
    fading = 0.75 + 0.25 * np.sin(np.arange(FINE_PX) / rng.uniform(9, 16) + rng.uniform(0, 6))
    dead = rng.random(FINE_PX // 2).repeat(2) < 0.03
    burnt = (1 - dots) * fading[:, None] * ~dead
    paper = np.array([240, 240, 232.0]) + rng.normal(0, 2, (FINE_PX, FINE_PX, 1))
    return _mix(paper, np.array([52.0, 50, 74]), burnt)


def woodcut(drawing: Drawing, rng: Rng) -> Canvas:
    """Black ink and gouged white lines that follow each form; a flat second block colours the thing."""
    drawing = by_hand(drawing, rng, wobble=0.005, corners=11)
    indices, x, y = index_map(drawing, FINE_PX), *_grid()
    things = _things(drawing)[indices]
    bright = _luminance(palette(drawing))[indices] / 255
    angles = rng.uniform(-0.5, 0.5, len(drawing) + 1)[indices]
    bend = 12 * _cloud(rng, 4)
    gouges = np.sin((np.sin(angles) * x + np.cos(angles) * y + bend) * 0.85) > 1.1 - 2.0 * bright
    paper = np.where(things[..., None], palette(drawing)[indices], np.array([238.0, 230, 210]))
    white = np.where(_edges(indices, 2) > 0, things, gouges).astype(np.float64)
    white = np.where((_edges(indices, 1) > 0) & ~things, 0, white)
    white *= 1 - 0.5 * (rng.random(white.shape) < 0.03)
    return _mix(np.array([24.0, 22, 24]) + np.zeros_like(paper), paper, np.clip(white, 0, 1))


def knitting(drawing: Drawing, rng: Rng) -> Canvas:
    """Rows of V-shaped stitches of wool."""
    indices = index_map(by_hand(drawing, rng, corners=16), FINE_PX)
    colours = _mix(palette(drawing), np.array([200.0, 180, 170]), 0.12)
    image = Image.new("RGB", (FINE_PX, FINE_PX), (70, 60, 60))
    pen = ImageDraw.Draw(image)
    wide, tall = 9, 8
    for top in range(-tall, FINE_PX + tall, tall):
        for left in range(0, FINE_PX, wide):
            row, column = min(max(top + 4, 0), FINE_PX - 1), min(left + 4, FINE_PX - 1)
            colour = colours[indices[row, column]] * rng.uniform(0.86, 1.1)
            for shift, light in ((0, 1.0), (1, 0.82)):
                fill = tuple(int(min(255, value * light)) for value in colour)
                start = left + shift * (wide - 1)
                pen.line([start, top, left + wide / 2, top + tall + 2], fill=fill, width=4)
    return np.asarray(image, np.float64) + rng.normal(0, 6, (FINE_PX, FINE_PX, 1))


def impasto(drawing: Drawing, rng: Rng) -> Canvas:
    """Thick overlapping dabs of a palette knife, each lit along one edge."""
    indices = index_map(by_hand(drawing, rng, wobble=0.006), FINE_PX)
    colours = palette(drawing)
    image = Image.fromarray(np.clip(colours[indices] * 0.8, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    angles = rng.uniform(0, np.pi, len(drawing) + 1)
    for a, b in rng.integers(0, FINE_PX, (1500, 2)):
        shape = int(indices[a, b])
        angle = angles[shape] + rng.normal(0, 0.35)
        long, wide = rng.uniform(6, 11), rng.uniform(2.5, 4.5)
        along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        colour = colours[shape] + rng.normal(0, 16, 3)
        for shift, add in ((-1.6, 45), (1.6, -45), (0, 0)):
            middle = np.array([b, a]) + across * shift
            corners = [
                middle + s * along * long + t * across * wide for s, t in ((-1, -1), (1, -1), (1, 1), (-1, 1))
            ]
            fill = tuple(int(min(255, max(0, value + add))) for value in colour)
            pen.polygon([(float(p[0]), float(p[1])) for p in corners], fill=fill)
    return np.asarray(image, np.float64)


TUNING: dict[str, Technique] = {
    "chalk": chalk, "cut paper": cut_paper, "ink on paper": ink_on_paper, "stencil": stencil,
    "embroidery": embroidery, "graphite": graphite, "neon sign": neon_sign,
}  # fmt: skip
"""Techniques on which rules and thresholds are chosen."""

TEST: dict[str, Technique] = {
    "low poly": low_poly, "stamp": stamp, "mosaic": mosaic, "thermal print": thermal_print, "woodcut": woodcut,
    "knitting": knitting, "impasto": impasto,
}  # fmt: skip
"""Techniques on which nothing was chosen."""

TECHNIQUES: dict[str, Technique] = TUNING | TEST
