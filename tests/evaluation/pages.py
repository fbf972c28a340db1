"""Reads pictures and charts back from a page or a sheet."""

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from detour.evaluation.pixels import Pictures
from tests.evaluation.test_report import Elements

SVG = "{http://www.w3.org/2000/svg}"


def pictures_of(page: str) -> list[tuple[str, np.ndarray]]:
    """(words, mean colour) of every picture of a page, in its order."""
    found = []
    for tag, attrs in Elements(page).tags:
        if tag == "img":
            encoded = (attrs["src"] or "").partition("base64,")[2]
            with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
                pixels = np.asarray(image.convert("RGB"), dtype=float)
            found.append((attrs["alt"] or "", pixels.mean(axis=(0, 1))))
    return found


def section_of(page: str, title: str) -> str:
    """The part of the page below a heading."""
    start = page.index(f"<h2>{title}</h2>")
    return page[start : page.index("</section>", start)]


def chart_of(page: str, title: str) -> ElementTree.Element:
    """The chart that is called so for those who do not see it."""
    charts = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    return ElementTree.fromstring(next(one for one in charts if f'aria-label="{title}"' in one))


def bars_of(page: str, title: str) -> list[tuple[str, float]]:
    """(role, length) of every bar of a chart and then of the marks of its legend, in the order they are drawn."""
    found = []
    for path in chart_of(page, title).iter(f"{SVG}path"):
        if role := re.search(
            r"fill: var\(--(base|adapter|rate-zero|shuffled|ceiling)\)", path.get("style", "")
        ):
            xs = list(map(float, re.findall(r"-?[\d.]+", path.get("d", ""))))[::2]
            found.append((role[1], max(xs) - min(xs)))
    return found


def words_of(page: str, title: str) -> list[str]:
    """Every text of a chart, the legend's last."""
    return [one.text or "" for one in chart_of(page, title).iter(f"{SVG}text")]


def place_of(sheet: np.ndarray, picture: Pictures) -> tuple[int, int]:
    """(top, left) of the one place of a sheet where the picture stands."""
    height, width = picture.shape[:2]
    first = (sheet[: 1 - height, : 1 - width] == picture[0, 0]).all(-1)
    first &= (sheet[height - 1 :, width - 1 :] == picture[-1, -1]).all(-1)
    found = [
        (int(top), int(left))
        for top, left in np.argwhere(first)
        if (sheet[top : top + height, left : left + width] == picture).all()
    ]
    assert len(found) == 1
    return found[0]
