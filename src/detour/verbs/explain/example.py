"""One picture with its caption: the user's own, or one that the embedded base's world draws."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detour.data.captions import read_sidecar
from detour.data.pictures import open_picture
from detour.data.transform import to_square

MAX_MEGAPIXELS = 100.0


@dataclass(frozen=True)
class OneExample:
    """A picture that is ready for the VAE.

    Attributes:
        name: of the file, or what the world calls it.
        caption: what the text encoder reads.
        picture: uint8 (size_px, size_px, 3).
    """

    name: str
    caption: str
    picture: NDArray[np.uint8]


def open_example(picture: Path | None, caption: str | None, *, size_px: int, seed: int) -> OneExample:
    """Open ``picture``, or draw one when there is none.

    Args:
        picture: PNG, JPEG or WEBP.
        caption: wins over the ``.txt`` beside the picture; without either it is empty.
        size_px: side of the square that is cut out.
        seed: of the drawn picture.

    Raises:
        DataError: the picture or its caption cannot be read.
    """
    if picture is not None:
        image = open_picture(picture, max_megapixels=MAX_MEGAPIXELS)
        if caption is None:
            caption = read_sidecar(picture)
        return OneExample(picture.name, caption or "", to_square(image, size_px))
    from detour.pocket.world import HOUSE, NAMED_STYLES, render, training_example
    from detour.pocket.world import caption as world_caption

    scene = training_example(seed, 0).scene
    # A style that the base never saw: with the house style there would be nothing left to learn.
    drawn = Image.fromarray(render(scene, NAMED_STYLES["comic"]))
    drawn_caption = caption or world_caption(scene, HOUSE, seed=seed)
    return OneExample("a scene of pocket's world", drawn_caption, to_square(drawn, size_px))
