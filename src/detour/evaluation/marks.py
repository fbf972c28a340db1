"""Finds watermarks and frames in an adapter's pictures: the same mark in the same place of many pictures.

The mathematics is that of the data check (:mod:`detour.data.flaws`). Here the base draws the same prompts with the same
seeds, so what repeats without the adapter as well, such as a horizon, is taken off and no mark.
"""

from collections.abc import Mapping

import numpy as np
from PIL import Image

from detour.data.flaws import Mark, border_px, common_mark, thumbnail
from detour.evaluation.compared import Compared, Part, Side
from detour.evaluation.pixels import Pictures

FRAMED_MIN = 0.01
"""Smallest width of a frame of one colour, as a share of the shorter side."""


class RepeatedMark(Part):
    """Place of a mark, as shares of the picture's sides, and how similar it is in all pictures."""

    where: str
    left: float
    top: float
    right: float
    bottom: float
    strength: float

    @classmethod
    def of(cls, mark: Mark) -> "RepeatedMark":
        """Make the part of the file from what the finder returns."""
        return cls(
            where=mark.where,
            left=mark.left,
            top=mark.top,
            right=mark.right,
            bottom=mark.bottom,
            strength=mark.strength,
        )


class MarkFigures(Part):
    """Marks that are in the same place of the adapter's pictures and not of the base's."""

    pictures: int
    mark: RepeatedMark | None
    in_originals: bool
    """Whether the training pictures have a mark in that place too."""
    framed: Compared
    """Share of the pictures with bars or a frame of one colour."""

    def sentences(self) -> list[str]:
        """Sentences on what was found; empty where nothing was."""
        found = []
        if self.mark is not None:
            origin = "; the training pictures have it too" if self.in_originals else ""
            found.append(
                f"Something stands in the same place of most pictures that the base does not draw there: "
                f"{self.mark.where} ({self.mark.left:.0%} to {self.mark.right:.0%} across, {self.mark.top:.0%} to "
                f"{self.mark.bottom:.0%} down){origin}. A watermark, a caption bar, or a fixed texture of the style."
            )
        if self.framed.adapter > self.framed.base:
            found.append(
                f"{self.framed.adapter:.0%} of the pictures have bars or a frame of one colour; "
                f"of the base's {self.framed.base:.0%}."
            )
        return found


def measure_marks(pictures: Mapping[Side, Pictures], originals: Pictures | None = None) -> MarkFigures:
    """Look for a mark in the adapter's pictures.

    Args:
        pictures: side → uint8 (N, H, W, 3), the same prompts and seeds on every side, adapter and base at least. Fewer
            than eight pictures say nothing about marks.
        originals: uint8 (M, H', W', 3), the training pictures.
    """
    mark = common_mark(_thumbs(pictures["adapter"]), _thumbs(pictures["base"]))
    return MarkFigures(
        pictures=len(pictures["adapter"]),
        mark=None if mark is None else RepeatedMark.of(mark),
        in_originals=mark is not None
        and originals is not None
        and _overlaps(mark, originals, pictures["base"]),
        framed=Compared.of({side: _framed(one) for side, one in pictures.items()}),
    )


def _thumbs(pictures: Pictures) -> np.ndarray:
    if not len(pictures):
        return np.empty((0, 1, 1), np.float32)
    return np.stack([thumbnail(Image.fromarray(picture)) for picture in pictures])


def _overlaps(mark: Mark, originals: Pictures, base: Pictures) -> bool:
    """Whether the training pictures, compared with the base's, have a mark in a part of the same box."""
    theirs = common_mark(_thumbs(originals), _thumbs(base))
    if theirs is None:
        return False
    across = min(mark.right, theirs.right) - max(mark.left, theirs.left)
    return across > 0 and min(mark.bottom, theirs.bottom) - max(mark.top, theirs.top) > 0


def _framed(pictures: Pictures) -> float:
    wide_enough = [
        border_px(Image.fromarray(picture)) > FRAMED_MIN * min(picture.shape[:2]) for picture in pictures
    ]
    return float(np.mean(wide_enough)) if wide_enough else 0.0
