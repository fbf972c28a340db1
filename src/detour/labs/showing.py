"""Shows pictures in a notebook, small and with a text alternative."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from detour.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image as Picture

MAX_WIDTH_PX = 1100
JPEG_QUALITY = 85


def show(what: Figure | Picture | np.ndarray, *, alt: str) -> None:
    """Display a figure, a picture or an array.

    Figures become PNG, pictures JPEG; a figure is closed, so that a notebook does not gather them in memory.

    Args:
        what: of matplotlib, of Pillow, or uint8 (H, W, 3).
        alt: what is to be seen, in a sentence.

    Raises:
        ConfigError: ``alt`` is empty.
    """
    if not alt.strip():
        raise ConfigError("show(…, alt=…): say in a sentence what is to be seen.")
    data, kind = _encoded(what)
    try:
        from IPython.display import Image, display
    except ModuleNotFoundError:  # a lesson that is run as a plain script
        print(f"[picture: {alt}]")
        return
    display(Image(data=data, format=kind, alt=alt))


def _encoded(what: Figure | Picture | np.ndarray) -> tuple[bytes, str]:
    from matplotlib.figure import Figure
    from PIL import Image

    buffer = io.BytesIO()
    if isinstance(what, Figure):
        what.savefig(buffer, format="png", dpi=80, bbox_inches="tight", metadata={"Software": None})
        _close(what)
        return buffer.getvalue(), "png"
    picture = Image.fromarray(what) if isinstance(what, np.ndarray) else what
    picture = picture.convert("RGB")
    if picture.width > MAX_WIDTH_PX:
        height = round(picture.height * MAX_WIDTH_PX / picture.width)
        picture = picture.resize((MAX_WIDTH_PX, height), Image.Resampling.LANCZOS)
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue(), "jpeg"


def _close(figure: Figure) -> None:
    import matplotlib.pyplot as plt

    plt.close(figure)
