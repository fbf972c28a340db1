"""The picture that drawing begins with, opened, cut to size, and written down."""

import hashlib
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from detour.bases.base import Base
from detour.data.framing import Frame
from detour.data.masks import open_mask
from detour.data.pictures import open_picture, read_bytes
from detour.errors import ConfigError
from detour.generation.png import StartUse
from detour.generation.starts import StartPicture
from detour.specs.generation import GenerateSpec, PictureSpec

MAX_MEGAPIXELS = 100.0


def size_like(size_px: tuple[int, int], base: Base) -> tuple[int, int]:
    """(width, height) of about the base's own area, as near to the picture's shape as the base's steps allow.

    Args:
        size_px: width and height of the picture.
        base: that draws.
    """
    step, side = base.drawing_step_px, base.native_size_px
    ratio = math.sqrt(size_px[0] / size_px[1])
    width, height = (max(step, round(length / step) * step) for length in (side * ratio, side / ratio))
    return width, height


def open_start(spec: GenerateSpec, base: Base) -> tuple[PictureSpec, StartPicture | None, StartUse | None]:
    """Open the picture to begin with and its mask, and settle the size that is drawn.

    The picture is scaled and cut around its centre; its mask with it.

    Args:
        spec: names the files.
        base: that draws.

    Returns:
        how to draw, with the size; the picture; what a drawn picture's metadata say of it.

    Raises:
        ConfigError: a mask without a picture, or a name that is no file.
        DataError: a picture that cannot be read, or a mask of another size.
    """
    how = spec.picture
    if spec.start is None:
        if spec.mask is not None:
            raise ConfigError(
                "--mask says which part of a picture is drawn anew: name the picture with --from."
            )
        return how, None, None
    data = read_bytes(Path(spec.start).expanduser())
    image = open_picture(data, max_megapixels=MAX_MEGAPIXELS, name=spec.start)
    width, height = size_like(image.size, base)
    width = width if how.width_px == "auto" else how.width_px
    height = height if how.height_px == "auto" else how.height_px
    frame = Frame(image.size, (width, height))
    mask = None
    marks: bytes | None = None
    if spec.mask is not None:
        marks = read_bytes(Path(spec.mask).expanduser())
        found = open_mask(marks, image.size, name=spec.mask, alpha=False)
        assert found is not None, "a mask file is a mask"
        fitted = ImageOps.fit(found.convert("L"), (width, height), Image.Resampling.BILINEAR)
        mask = np.array(fitted, dtype=np.uint8)
    start = StartPicture(pixels=frame.cut(image), strength=spec.strength, mask=mask)
    use = StartUse(
        sha256=hashlib.sha256(data).hexdigest(),
        strength=spec.strength,
        mask_sha256="" if marks is None else hashlib.sha256(marks).hexdigest(),
    )
    return how.model_copy(update={"width_px": width, "height_px": height}), start, use
