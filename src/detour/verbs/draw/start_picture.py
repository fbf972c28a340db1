"""The picture that drawing begins with, opened, cut to size, and written down."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
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


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenedStart:
    """A start picture and its mask, decoded and not yet cut to the size that is drawn.

    Attributes:
        image: upright, RGB.
        mask: mode ``L``, of the same size: white is drawn anew; ``None`` draws all of it anew.
        use: what the metadata of a drawn picture say of it.
    """

    image: Image.Image
    mask: Image.Image | None
    use: StartUse

    def with_mask(self, marks: bytes, *, name: str = "the mask") -> OpenedStart:
        """Add a mask to the picture.

        Args:
            marks: content of the mask's file: white is drawn anew, black stays.
            name: what messages call it.

        Raises:
            DataError: it cannot be read, or has another size than the picture.
        """
        mask = open_mask(marks, self.image.size, name=name, alpha=False)
        assert mask is not None, "a mask file is a mask"
        use = self.use.model_copy(update={"mask_sha256": hashlib.sha256(marks).hexdigest()})
        return replace(self, mask=mask.convert("L"), use=use)

    def cut(self, size_px: tuple[int, int]) -> StartPicture:
        """Scale and cut the picture around its centre, its mask with it.

        Args:
            size_px: width and height that are drawn.
        """
        mask = None
        if self.mask is not None:
            fitted = ImageOps.fit(self.mask, size_px, Image.Resampling.BILINEAR)
            mask = np.array(fitted, dtype=np.uint8)
        pixels = Frame(self.image.size, size_px).cut(self.image)
        return StartPicture(pixels=pixels, strength=self.use.strength, mask=mask)


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


def decode_start(
    data: bytes, *, strength: float, max_megapixels: float = MAX_MEGAPIXELS, name: str = "the start picture"
) -> OpenedStart:
    """Decode the file of a start picture; it has no mask yet.

    Args:
        data: content of the file.
        strength: share of the steps that are drawn.
        max_megapixels: largest picture that is decoded.
        name: what messages call it.

    Raises:
        DataError: it cannot be read.
    """
    image = open_picture(data, max_megapixels=max_megapixels, name=name)
    use = StartUse(sha256=hashlib.sha256(data).hexdigest(), strength=strength)
    return OpenedStart(image=image, mask=None, use=use)


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
    opened = decode_start(read_bytes(Path(spec.start).expanduser()), strength=spec.strength, name=spec.start)
    if spec.mask is not None:
        opened = opened.with_mask(read_bytes(Path(spec.mask).expanduser()), name=spec.mask)
    width, height = size_like(opened.image.size, base)
    width = width if how.width_px == "auto" else how.width_px
    height = height if how.height_px == "auto" else how.height_px
    sized = how.model_copy(update={"width_px": width, "height_px": height})
    return sized, opened.cut((width, height)), opened.use
