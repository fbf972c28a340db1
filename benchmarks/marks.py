"""At which opacity a mark in an adapter's pictures is found; part of ``python -m benchmarks.copies``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.copies_material import Material, through_vae
from detour.evaluation.marks import measure_marks
from detour.evaluation.pixels import Pictures

OPACITIES = (0.1, 0.2, 0.3, 0.4, 0.6, 1.0)
COUNTED = 32
Stamp = Callable[[ImageDraw.ImageDraw, int], None]


def _word(pen: ImageDraw.ImageDraw, alpha: int) -> None:
    pen.text((78, 108), "PREVIEW", fill=(255, 255, 255, alpha), stroke_width=1)


def _logo(pen: ImageDraw.ImageDraw, alpha: int) -> None:
    pen.ellipse((8, 8, 30, 30), outline=(255, 255, 255, alpha), width=3)
    pen.line((12, 19, 26, 19), fill=(20, 20, 20, alpha), width=3)


def _bar(pen: ImageDraw.ImageDraw, alpha: int) -> None:
    pen.rectangle((0, 112, 128, 128), fill=(10, 10, 10, alpha))


STAMPS: dict[str, Stamp] = {"a word, bottom right": _word, "a logo, top left": _logo, "a bar, bottom": _bar}


def stamped(pictures: Pictures, stamp: Stamp, opacity: float, *, every: int = 1) -> Pictures:
    """Put the mark over the pictures; with ``every`` = 5 each fifth one stays clean."""
    marked = []
    for index, picture in enumerate(pictures):
        image = Image.fromarray(picture).convert("RGBA")
        layer = Image.new("RGBA", image.size)
        if every == 1 or index % every:
            stamp(ImageDraw.Draw(layer), round(255 * opacity))
        marked.append(np.asarray(Image.alpha_composite(image, layer).convert("RGB")))
    return np.stack(marked)


def framed(pictures: Pictures, *, width_px: int = 4) -> Pictures:
    """Put a black frame around every picture."""
    inside = pictures.copy()
    inside[:, :width_px] = inside[:, -width_px:] = 0
    inside[:, :, :width_px] = inside[:, :, -width_px:] = 0
    return inside


def mark_table(materials: Mapping[str, Material]) -> str:
    """Sets in which the mark was found, of those whose adapters were not trained by heart."""
    drawn = {
        f"{name} {part}": (one.new[start::2], one.base[start::2])
        for name, one in materials.items()
        if len(one.training) > 4 and len(one.new)
        for part, start in (("even", 0), ("odd", 1))
    }
    clean = sum(measure_marks({"adapter": a, "base": b}).mark is not None for a, b in drawn.values())
    lines = [
        f"clean pictures: a mark in {clean} of {len(drawn)} sets of {COUNTED}",
        "| mark | in | " + " | ".join(f"{opacity:.0%}" for opacity in OPACITIES) + " |",
        "|---" * (len(OPACITIES) + 2) + "|",
    ]
    for name, stamp in STAMPS.items():
        for every, share in ((1, "all pictures"), (5, "four of five")):
            found = [
                sum(
                    measure_marks({"adapter": stamped(a, stamp, opacity, every=every), "base": b}).mark
                    is not None
                    for a, b in drawn.values()
                )
                for opacity in OPACITIES
            ]
            lines.append(f"| {name} | {share} | " + " | ".join(f"{n} of {len(drawn)}" for n in found) + " |")
    for label, change in (
        ("frame", framed),
        ("frame, drawn by the autoencoder", lambda p: through_vae(framed(p))),
    ):
        shares = [measure_marks({"adapter": change(a), "base": b}).framed for a, b in drawn.values()]
        mean = np.mean([share.adapter for share in shares])
        base = np.mean([share.base for share in shares])
        lines.append(f"{label} of 4 px: seen in {mean:.0%} of the pictures (base, without one: {base:.0%})")
    return "\n".join(lines)
