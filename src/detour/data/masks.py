"""Which part of a picture counts in the loss: its alpha channel, or a mask beside it."""

from pathlib import Path
from typing import Literal

from PIL import Image

from detour.data.pictures import SUFFIXES, open_channel
from detour.errors import DataError

MaskSource = Literal["off", "alpha", "file"]
MASK_FOLDER = "mask"
MASK_ENDING = ".mask"


def mask_beside(picture: Path) -> Path | None:
    """``NAME.mask.png`` beside the picture, or ``mask/NAME.png``; ``None`` when there is neither."""
    candidates = [picture.with_name(f"{picture.stem}{MASK_ENDING}{suffix}") for suffix in SUFFIXES]
    candidates += [picture.parent / MASK_FOLDER / f"{picture.stem}{suffix}" for suffix in SUFFIXES]
    return next((path for path in candidates if path.is_file()), None)


def is_mask(path: Path) -> bool:
    """Whether a file is a mask of another one by its name."""
    return path.stem.endswith(MASK_ENDING)


def open_mask(mask: Path | bytes, size_px: tuple[int, int], *, name: str, alpha: bool) -> Image.Image | None:
    """One channel, 0 to 255, of ``size_px``; white counts in full.

    Args:
        mask: the mask's file, or the picture's own with ``alpha``.
        size_px: upright size of the picture.
        name: of the mask in messages.
        alpha: read the alpha channel; ``None`` comes back when there is none.

    Raises:
        DataError: unreadable, or of another size than the picture.
    """
    channel = open_channel(mask, alpha=alpha, name=name)
    if channel is not None and channel.size != size_px:
        raise DataError(
            f"{name}: the mask is {channel.size[0]} × {channel.size[1]} px, its picture {size_px[0]} × {size_px[1]}. "
            "Make them equal."
        )
    return channel
