"""Open pictures of unknown origin: three formats, a pixel limit, upright, RGB."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from detour.errors import DataError

T = TypeVar("T")

FORMATS = ("PNG", "JPEG", "WEBP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
OTHER_PICTURE_SUFFIXES = (".gif", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jxl", ".svg")


def open_picture(source: Path | bytes, *, max_megapixels: float, name: str = "") -> Image.Image:
    """Decode a picture, turned upright by its EXIF orientation, as RGB; transparency becomes white.

    Args:
        source: a file, or the bytes of one.
        max_megapixels: larger pictures are refused from their header, before they are decoded.
        name: what messages call it; the path when empty.

    Raises:
        DataError: missing, unreadable, truncated, of another format, or too large.
    """
    return _opened(source, max_megapixels, name, _upright_rgb)


def open_channel(
    source: Path | bytes, *, alpha: bool, max_megapixels: float = 100.0, name: str = ""
) -> Image.Image | None:
    """One channel of a picture, upright, 0 to 255: its transparency with ``alpha``, else its brightness.

    Returns:
        Mode ``L``; ``None`` when a picture has no transparency.

    Raises:
        DataError: as :func:`open_picture`.
    """
    return _opened(source, max_megapixels, name, _upright_alpha if alpha else _upright_grey)


def _opened(source: Path | bytes, max_megapixels: float, name: str, read: Callable[[Image.Image], T]) -> T:
    name = name or (str(source) if isinstance(source, Path) else "picture")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # Pillow warns of large pictures and odd EXIF; the limit is checked here
            with Image.open(
                io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS
            ) as image:
                _check_size(image.size, max_megapixels, name)
                return read(image)
    except (DataError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(name, "more than 178 megapixels", max_megapixels) from error
    except Exception as error:  # Pillow's decoders raise many kinds on broken input
        raise _unreadable(name, source, error) from error


def check_picture(source: Path | bytes, *, max_megapixels: float, name: str) -> tuple[int, int]:
    """Read a picture to its end and return its upright (width, height); raises as :func:`open_picture`."""
    return open_picture(source, max_megapixels=max_megapixels, name=name).size


def _check_size(size: tuple[int, int], max_megapixels: float, name: str) -> None:
    width, height = size
    if width * height > max_megapixels * 1e6:
        found = f"{width} × {height} px, {width * height / 1e6:.0f} megapixels"
        raise _too_large(name, found, max_megapixels)


def _too_large(name: str, found: str, max_megapixels: float) -> DataError:
    return DataError(
        f"{name}: {found}, the limit is {max_megapixels:g}. Make it smaller, "
        "leave it out with --skip-bad-images, or raise data.max_megapixels."
    )


def _unreadable(name: str, source: Path | bytes, error: Exception) -> DataError:
    if isinstance(source, Path) and not source.is_file():
        return DataError(f"{name}: no such picture. Check the name, or pass --skip-bad-images.")
    reason = "another format or damaged" if isinstance(error, UnidentifiedImageError) else str(error)
    if "truncated" in reason.lower():
        num_bytes = len(source) if isinstance(source, bytes) else source.stat().st_size
        reason = f"truncated after {num_bytes:,} bytes"
    formats = ", ".join(FORMATS[:-1]) + " or " + FORMATS[-1]
    return DataError(f"{name}: not readable as {formats} ({reason}). Remove it, or pass --skip-bad-images.")


def _upright_alpha(image: Image.Image) -> Image.Image | None:
    upright = ImageOps.exif_transpose(image)
    return upright.convert("RGBA").getchannel("A") if upright.has_transparency_data else None


def _upright_grey(image: Image.Image) -> Image.Image | None:
    return _upright_rgb(image).convert("L")


def _upright_rgb(image: Image.Image) -> Image.Image:
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion clips instead of scaling
        grey = np.clip(np.asarray(upright).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if upright.has_transparency_data:
        colours = upright.convert("RGBA")
        white = Image.new("RGBA", colours.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, colours).convert("RGB")
    return upright.convert("RGB")
