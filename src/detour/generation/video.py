"""Pictures one after the other as a file that moves."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detour.errors import ConfigError, MissingExtra
from detour.files import write_bytes, write_with

VIDEOS = (".mp4", ".webm")
"""Written through imageio and ffmpeg."""


def check_video(path: Path) -> None:
    """Raise now if a video could not be written later.

    Raises:
        ConfigError: an ending that is none of .gif, .mp4 and .webm.
        MissingExtra: videos need the extra ``video``; a GIF does not.
    """
    ending = path.suffix.lower()
    if ending == ".gif":
        return
    if ending not in VIDEOS:
        raise ConfigError(f"{path}: a video is named .gif, .mp4 or .webm.")
    _imageio()


def save_video(path: Path, frames: np.ndarray, *, fps: float) -> None:
    """Write pictures as a GIF, an MP4 or a WebM file.

    Args:
        path: its ending says which.
        frames: uint8 (N, H, W, 3).
        fps: pictures a second.

    Raises:
        ConfigError, MissingExtra: as :func:`check_video`.
        StorageError: disk full or not writable.
    """
    check_video(path)
    if path.suffix.lower() != ".gif":
        encoded = _imageio().imwrite(
            "<bytes>", frames, extension=path.suffix.lower(), fps=fps, macro_block_size=8, quality=8
        )
        write_bytes(path, encoded)
        return
    first, *others = (Image.fromarray(frame) for frame in frames)
    settings: dict[str, Any] = {"duration": round(1000 / fps), "loop": 0, "append_images": others}
    write_with(path, lambda place: first.save(place, format="GIF", save_all=True, **settings))


def _imageio() -> Any:
    try:
        import imageio.v3
        import imageio_ffmpeg  # noqa: F401
    except ImportError as error:
        raise MissingExtra(
            "videos need imageio and ffmpeg: pip install 'detour-lora[video]', or name the file .gif."
        ) from error
    return imageio.v3
