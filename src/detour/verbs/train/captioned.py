"""Training pictures that are drawn here, each with its caption beside it."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detour.files import write_text, write_with


def write_captioned(path: Path, pixels: NDArray[np.uint8], caption: str) -> None:
    """Write a picture as PNG and, once it is there, its caption beside it.

    Args:
        path: of the PNG; the caption has the same name with ``.txt``.
        pixels: (H, W, 3).
        caption: one line.

    Raises:
        StorageError: disk full or folder not writable.
    """
    from PIL import Image

    image = Image.fromarray(pixels)
    write_with(path, lambda temporary: image.save(temporary, "PNG"))
    write_text(path.with_suffix(".txt"), caption + "\n")
