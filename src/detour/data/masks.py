"""Which part of a picture counts in the loss: its alpha channel, or a mask beside it."""

from pathlib import Path

from PIL import Image

from detour.data.pictures import open_alpha, open_mask_picture
from detour.errors import DataError


def open_mask(mask: Path | bytes, size_px: tuple[int, int], *, name: str, alpha: bool) -> Image.Image | None:
    """One channel, 0 to 255, of ``size_px``; white counts in full, transparent does not count.

    Args:
        mask: the mask's file, or the picture's own with ``alpha``.
        size_px: upright size of the picture.
        name: of the mask in messages.
        alpha: read the alpha channel; ``None`` comes back when there is none.

    Raises:
        DataError: unreadable, or of another size than the picture.
    """
    channel = open_alpha(mask, name=name) if alpha else open_mask_picture(mask, name=name)
    if channel is not None and channel.size != size_px:
        raise DataError(
            f"{name}: the mask is {channel.size[0]} × {channel.size[1]} px, its picture {size_px[0]} × {size_px[1]}. "
            "Make them equal."
        )
    return channel
