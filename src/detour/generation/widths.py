"""Width classes: how many rows the forward pass has in which a picture is drawn.

A row of a batch has the same bits whatever its neighbours are, but not at another number of rows (libraries choose
other kernels): pictures of different batches would differ by rounding. So a picture gets a width when it starts and
keeps it, and each of its passes is filled up to exactly that many rows.
"""

from collections.abc import Iterable
from typing import Literal, get_args

from detour.errors import ConfigError

WidthClass = Literal[1, 2, 4, 8, 16]

WIDTH_CLASSES: tuple[WidthClass, ...] = get_args(WidthClass)
"""Rows of a forward pass, guidance included. Padding a lone picture to 16 would cost 6.8 times as much on a CPU."""


def width_for(num_rows: int) -> WidthClass:
    """The narrowest class that holds so many rows; the widest for more."""
    return next((width for width in WIDTH_CLASSES if num_rows <= width), WIDTH_CLASSES[-1])


def check_width(width: int, num_rows: int) -> WidthClass:
    """``width`` as a class, if a picture of so many rows fits in.

    Raises:
        ConfigError: no such class, or too narrow.
    """
    found = next((one for one in WIDTH_CLASSES if one == width), None)
    if found is None or found < num_rows:
        fitting = ", ".join(str(one) for one in WIDTH_CLASSES if one >= num_rows)
        raise ConfigError(
            f"width class {width}: this picture takes {num_rows} rows. Choose one of {fitting}."
        )
    return found


def widths_of_chunks(rows: Iterable[int], batch: int) -> list[WidthClass]:
    """The class of each picture of a list that is drawn ``batch`` pictures at a time.

    A function of the list alone, so that the same call draws the same bytes whatever else is drawn meanwhile.

    Args:
        rows: that each picture takes.
        batch: pictures that share a forward pass, at most; 1 or more.
    """
    rows = list(rows)
    found: list[WidthClass] = []
    for start in range(0, len(rows), batch):
        chunk = rows[start : start + batch]
        found += [width_for(sum(chunk))] * len(chunk)
    return found
