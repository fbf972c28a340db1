"""One labelled picture for people: prompts × (base, adapter, true style or nearest training picture)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detour.evaluation.report import Pair
from detour.files import write_with

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

GAP_PX = 6
LABEL_PX = 20
FONT_PX = 13
MAX_CELL_PX = 256
PAPER, INK, SOFT = (250, 249, 246), (25, 27, 31), (92, 96, 104)


def write_sheet(path: Path, pairs: Sequence[Pair]) -> None:
    """Write the sheet as a PNG file.

    Raises:
        StorageError: disk full or folder not writable.
    """
    sheet = draw_sheet(pairs)
    write_with(path, lambda temporary: sheet.save(temporary, "PNG", optimize=True))


def draw_sheet(pairs: Sequence[Pair], *, groups_in_row: int = 2) -> "Image.Image":
    """Draw groups of pictures of one prompt and seed side by side, with the prompt above them.

    Args:
        pairs: at least one; either all or none with a true picture, or with a nearest one of the user's own.
        groups_in_row: prompts beside each other.
    """
    from PIL import Image, ImageDraw, ImageFont

    columns_of = [("base", [one.base for one in pairs]), ("adapter", [one.adapter for one in pairs])]
    columns_of += [
        (name, [one for one in shown if one is not None])
        for name, shown in (
            ("true style", [one.truth for one in pairs]),
            ("nearest of yours", [one.nearest for one in pairs]),
        )
        if shown[0] is not None
    ]
    names = [name for name, _ in columns_of]
    height, width = pairs[0].base.shape[:2]
    scale = min(1.0, MAX_CELL_PX / max(height, width))
    cell = (round(width * scale), round(height * scale))
    columns = min(groups_in_row, len(pairs))
    group = (len(names) * (cell[0] + GAP_PX) + 2 * GAP_PX, cell[1] + LABEL_PX + GAP_PX)
    rows = -(-len(pairs) // columns)
    sheet = Image.new("RGB", (columns * group[0], LABEL_PX + rows * group[1] + GAP_PX), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_PX)
    for index, pair in enumerate(pairs):
        left = (index % columns) * group[0] + GAP_PX
        top = LABEL_PX + (index // columns) * group[1]
        pen.text(
            (left, top + 2), _fitting(pair.prompt, pen, font, group[0] - 2 * GAP_PX), fill=INK, font=font
        )
        for place, (_, shown) in enumerate(columns_of):
            x = left + place * (cell[0] + GAP_PX)
            if index < columns:
                pen.text((x + cell[0] / 2, LABEL_PX / 2), names[place], fill=SOFT, font=font, anchor="mm")
            image = Image.fromarray(shown[index]).resize(cell, Image.Resampling.LANCZOS)
            sheet.paste(image, (x, top + LABEL_PX))
    return sheet


def _fitting(
    text: str, pen: "ImageDraw.ImageDraw", font: "ImageFont.FreeTypeFont | ImageFont.ImageFont", width_px: int
) -> str:
    """Shorten a text with an ellipsis where it is wider than its group."""
    flat = " ".join(text.split())
    if pen.textlength(flat, font=font) <= width_px:
        return flat
    while flat and pen.textlength(flat + "…", font=font) > width_px:
        flat = flat[:-1]
    return flat + "…"
