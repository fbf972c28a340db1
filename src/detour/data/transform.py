"""From a picture of any shape to the square that is trained on."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps


def to_square(image: Image.Image, size_px: int) -> NDArray[np.uint8]:
    """Scale the shorter side to ``size_px`` (Lanczos) and cut the centre out of the longer one.

    Args:
        image: RGB.
        size_px: side of the square.

    Returns:
        (size_px, size_px, 3) uint8.
    """
    square = ImageOps.fit(image, (size_px, size_px), Image.Resampling.LANCZOS, centering=(0.5, 0.5))
    pixels: NDArray[Any] = np.array(square, dtype=np.uint8)
    return pixels
