"""Many pictures on one labelled sheet."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GAP_PX = 8
INK = (31, 41, 51)
PAPER = (255, 255, 255)
MAX_LINES = 3

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def grid(
    pictures: np.ndarray,
    columns: int,
    *,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
) -> Image.Image:
    """Lay pictures out row by row.

    Args:
        pictures: uint8 (N, H, W, 3).
        columns: pictures in a row; the last row may be short.
        row_labels: one for each row, above its pictures over the whole width; empty for none.
        column_labels: one for each column, at the top; empty for none.

    Returns:
        RGB; pictures stand at their own size, labels are wrapped and, past three lines, cut with an ellipsis.

    Raises:
        ValueError: no pictures, or labels that do not fit the rows and columns.
    """
    if len(pictures) == 0 or columns < 1:
        raise ValueError(f"a grid needs pictures and columns, got {len(pictures)} and {columns}")
    rows = -(-len(pictures) // columns)
    if row_labels and len(row_labels) != rows:
        raise ValueError(f"{len(row_labels)} row labels for {rows} rows")
    if column_labels and len(column_labels) != columns:
        raise ValueError(f"{len(column_labels)} column labels for {columns} columns")
    height, width = pictures.shape[1:3]
    font = label_font(max(11, min(22, width // 14)))
    full_width = columns * width + (columns - 1) * GAP_PX
    heads = [wrap(label, font, width) for label in column_labels]
    bands = [wrap(label, font, full_width) for label in row_labels] or [[] for _ in range(rows)]
    head_px = _text_px(max(heads, key=len, default=[]), font)
    size = (
        full_width + 2 * GAP_PX,
        GAP_PX + head_px + sum(_text_px(band, font) + height + GAP_PX for band in bands),
    )
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, lines in enumerate(heads):
        _write(pen, lines, GAP_PX + column * (width + GAP_PX), GAP_PX, font)
    top = GAP_PX + head_px
    for row, band in enumerate(bands):
        _write(pen, band, GAP_PX, top, font)
        top += _text_px(band, font)
        for column, picture in enumerate(pictures[row * columns : (row + 1) * columns]):
            sheet.paste(Image.fromarray(picture), (GAP_PX + column * (width + GAP_PX), top))
        top += height + GAP_PX
    return sheet


@cache
def label_font(size_px: int) -> Font:
    """DejaVu Sans, which comes with matplotlib and knows far more letters than Pillow's own font."""
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(path, size_px) if path.is_file() else ImageFont.load_default(size_px)


def wrap(text: str, font: Font, width_px: int) -> list[str]:
    """Break a label into at most three lines of ``width_px``; what does not fit ends in an ellipsis."""
    lines: list[str] = []
    words = text.split()
    while words:
        if len(lines) == MAX_LINES:
            lines[-1] = _shortened(lines[-1] + "…", font, width_px)
            break
        line = words.pop(0)
        while words and font.getlength(f"{line} {words[0]}") <= width_px:
            line += " " + words.pop(0)
        lines.append(_shortened(line, font, width_px))
    return lines


def _shortened(text: str, font: Font, width_px: int) -> str:
    if font.getlength(text) <= width_px:
        return text
    text = text.rstrip("…")
    while text and font.getlength(text + "…") > width_px:
        text = text[:-1]
    return text + "…"


def _line_px(font: Font) -> int:
    top, bottom = font.getbbox("Ájq")[1], font.getbbox("Ájq")[3]
    return int(bottom - top) + 4


def _text_px(lines: Sequence[str], font: Font) -> int:
    return len(lines) * _line_px(font) + (4 if lines else 0)


def _write(pen: ImageDraw.ImageDraw, lines: Sequence[str], x: int, y: int, font: Font) -> None:
    for index, line in enumerate(lines):
        pen.text((x, y + index * _line_px(font)), line, fill=INK, font=font)
