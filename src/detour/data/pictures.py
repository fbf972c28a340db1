"""Open pictures of unknown origin: three formats, limits on pixels and bytes, upright, sRGB."""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageChops, ImageFile, ImageOps, UnidentifiedImageError

from detour.data.colours import colour_transform, converted
from detour.errors import DataError
from detour.files import printable

T = TypeVar("T")

FORMATS = ("PNG", "JPEG", "WEBP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
OTHER_PICTURE_SUFFIXES = (".gif", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jxl", ".svg")

MAX_FILE_BYTES = 1 << 30
"""Larger files are refused before they are read."""
BYTES_A_PIXEL = 10
"""Bytes that decoding may take for each pixel that ``max_megapixels`` allows, so 1.0 GB at 100 megapixels."""
STRIP_PIXELS = 1 << 20
"""Pixels that are converted at a time, so that conversions need no second copy of a large picture."""
ONE_GREY = 16
"""Steps of 255 within which the brightness of a mask counts as one: lossy formats move it by a few."""


@dataclass(frozen=True)
class Picture:
    """A decoded picture, and what to say of its file.

    Attributes:
        image: upright, RGB; transparency is white, a colour profile is converted to sRGB.
        remarks: what was not, or could not be, taken over from the file.
    """

    image: Image.Image
    remarks: tuple[str, ...] = ()


def read_bytes(path: Path, name: str = "") -> bytes:
    """Content of a picture's file, once: what is hashed and what is decoded have to be the same bytes.

    Args:
        path: the file.
        name: what messages call it; the path when empty.

    Raises:
        DataError: missing, unreadable, or larger than 1 GiB.
    """
    name = name or printable(str(path))
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DataError(
                f"{name}: a file of {path.stat().st_size / 2**30:.1f} GiB is no picture. Remove it."
            )
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{name}: no such picture. Check the name, or pass --skip-bad-images.") from error
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror}).") from error


def read_picture(source: Path | bytes, *, max_megapixels: float, name: str = "") -> Picture:
    """Decode a picture, turned upright by its EXIF orientation, as sRGB; transparency becomes white.

    Args:
        source: a file, or the bytes of one.
        max_megapixels: larger pictures, and those that take more than 10 bytes for each of so many pixels to decode,
            are refused from their header.
        name: what messages call it; the path when empty.

    Raises:
        DataError: missing, unreadable, truncated, of another format, or too large.
    """
    return _opened(source, max_megapixels, name, _decoded)


def open_picture(source: Path | bytes, *, max_megapixels: float, name: str = "") -> Image.Image:
    """The image of :func:`read_picture`, without its remarks."""
    return read_picture(source, max_megapixels=max_megapixels, name=name).image


def open_png(source: Path | bytes, *, max_megapixels: float = 100.0, name: str = "") -> Image.Image:
    """Open a PNG file as RGB and refuse every other file.

    Raises:
        DataError: no PNG, or as :func:`read_picture`.
    """
    if isinstance(source, Path):
        name = name or str(source)
        source = read_bytes(source)
    if not source.startswith(b"\x89PNG"):
        raise DataError(f"{name or 'picture'}: no PNG file. Pictures of detour are PNG files.")
    return open_picture(source, max_megapixels=max_megapixels, name=name).convert("RGB")


def open_alpha(source: Path | bytes, *, max_megapixels: float = 100.0, name: str = "") -> Image.Image | None:
    """Transparency of a picture, upright, mode ``L``, 255 is opaque; ``None`` when it has none.

    Raises:
        DataError: as :func:`read_picture`.
    """
    return _opened(source, max_megapixels, name, lambda image: _alpha(_upright(image)))


def open_mask_picture(source: Path | bytes, *, max_megapixels: float = 100.0, name: str = "") -> Image.Image:
    """A picture read as a mask, upright, mode ``L``: its brightness, and 0 where it is transparent.

    A mask that has one brightness wherever it shows says all it has to say by its transparency, so that black on
    transparent and white on transparent mean the same. Colour profiles are not applied: a mask is no photograph.

    Raises:
        DataError: as :func:`read_picture`.
    """
    return _opened(source, max_megapixels, name, lambda image: _as_mask(_upright(image)))


def _opened(source: Path | bytes, max_megapixels: float, name: str, read: Callable[[Image.Image], T]) -> T:
    if isinstance(source, Path):
        name = name or printable(str(source))
        source = read_bytes(source, name)
    name = name or "picture"
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures and odd EXIF; the limits are checked here.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(source), formats=FORMATS) as image:
                _check_size(image, max_megapixels, name)
                _scale_transparency(image)
                return read(image)
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(
            f"{name}: does not fit into memory. Make it smaller, or pass --skip-bad-images."
        ) from error
    except Image.DecompressionBombError as error:
        raise _too_large(name, "more than 178 megapixels", max_megapixels) from error
    except Exception as error:  # Pillow's decoders raise many kinds on broken input
        raise _unreadable(name, len(source), error) from error


def _check_size(image: Image.Image, max_megapixels: float, name: str) -> None:
    width, height = image.size
    if width * height > max_megapixels * 1e6:
        found = f"{width} × {height} px, {width * height / 1e6:.0f} megapixels"
        raise _too_large(name, found, max_megapixels)
    needed, allowed = width * height * _bytes_a_pixel(image), BYTES_A_PIXEL * max_megapixels * 1e6
    if needed > allowed:
        raise DataError(
            f"{name}: {width} × {height} px take {needed / 1e9:.1f} GB to decode, and data.max_megapixels = "
            f"{max_megapixels:g} allows {allowed / 1e9:.1f}. Make it smaller, or leave it out with --skip-bad-images."
        )


def _bytes_a_pixel(image: Image.Image) -> int:
    """What decoding takes at its peak for each pixel, from the header; measured to within 10 % for large pictures."""
    stored = {"1": 1, "L": 1, "P": 1, "I;16": 2}.get(image.mode, 4)
    as_rgb = 0 if image.mode == "RGB" else 4
    if image.format == "WEBP":
        return (
            stored + 12
        )  # two canvases of libwebp's animation decoder, and the bytes that Pillow copies from
    if image.format == "JPEG" and image.info.get("progressive"):
        return stored + 2 * len(image.getbands()) + as_rgb  # libjpeg keeps all coefficients, two bytes each
    # Asking a PNG for EXIF data that its header does not announce would decode it.
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1) if "exif" in image.info else 1
    return stored + max(stored if orientation != 1 else 0, as_rgb)


def _too_large(name: str, found: str, max_megapixels: float) -> DataError:
    return DataError(
        f"{name}: {found}, the limit is {max_megapixels:g}. Make it smaller, "
        "leave it out with --skip-bad-images, or raise data.max_megapixels."
    )


def _unreadable(name: str, num_bytes: int, error: Exception) -> DataError:
    cause = "another format or damaged" if isinstance(error, UnidentifiedImageError) else str(error)
    if "truncated" in cause.lower():
        cause = f"truncated after {num_bytes:,} bytes"
    formats = ", ".join(FORMATS[:-1]) + " or " + FORMATS[-1]
    return DataError(f"{name}: not readable as {formats} ({cause}). Remove it, or pass --skip-bad-images.")


def _decoded(image: Image.Image) -> Picture:
    transform, profile_remarks = colour_transform(image)
    remarks = (*_frames_remark(image), *profile_remarks)
    upright = _upright(image)
    if upright.mode == "RGB" and transform is None and not upright.has_transparency_data:
        upright.load()
        return Picture(upright, remarks)
    width, height = upright.size
    result = Image.new("RGB", upright.size)
    rows = max(1, STRIP_PIXELS // width)
    for top in range(0, height, rows):
        strip = upright.crop((0, top, width, min(height, top + rows)))
        colours, alpha = converted(_grey8(strip), transform), _alpha(strip)
        if alpha is not None:
            colours.putalpha(alpha)
            white = Image.new("RGBA", strip.size, (255, 255, 255, 255))
            colours = Image.alpha_composite(white, colours).convert("RGB")
        result.paste(colours, (0, top))
    return Picture(result, remarks)


def _frames_remark(image: Image.Image) -> tuple[str, ...]:
    """Phones write several pictures into one JPEG, of which the first is the photograph: nothing to say of those."""
    frames = getattr(image, "n_frames", 1) if image.format in ("PNG", "WEBP") else 1
    return (f"an animation of {frames} pictures, of which the first is taken",) if frames > 1 else ()


def _upright(image: Image.Image) -> Image.Image:
    """The image turned by its EXIF orientation; the same object where there is nothing to turn."""
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    return ImageOps.exif_transpose(image) if turned else image


def _scale_transparency(image: Image.Image) -> None:
    """Bring a PNG's transparent colour to the scale that its pixels are decoded to.

    Pillow (13.0) decodes grey of 2 and 4 bits, and colours of 16, to 8 bits, and leaves the transparent colour in the
    file's own scale, so that nothing or something else becomes transparent.
    """
    colour = image.info.get("transparency")
    tile = image.tile[0] if isinstance(image, ImageFile.ImageFile) and image.tile else None
    if tile is None or colour is None or isinstance(colour, bytes):
        return
    if tile.args == "L;2":
        image.info["transparency"] = colour * 85
    elif tile.args == "L;4":
        image.info["transparency"] = colour * 17
    elif tile.args == "RGB;16B":
        image.info["transparency"] = tuple(part >> 8 for part in colour)


def _grey8(image: Image.Image) -> Image.Image:
    """Grey of 16 bits scaled to 8 (Pillow's own conversion clips); other pictures as they are."""
    if not image.mode.startswith("I"):
        return image
    grey = np.asarray(image) >> 8
    if grey.dtype != np.uint16:
        grey = grey.clip(0, 255)
    return Image.fromarray(grey.astype(np.uint8))


def _alpha(image: Image.Image) -> Image.Image | None:
    if not image.has_transparency_data:
        return None
    if image.mode.startswith("I"):
        shown = np.asarray(image) != image.info["transparency"]
        return Image.fromarray(shown.astype(np.uint8) * 255)
    return image.convert("RGBA").getchannel("A")


def _as_mask(image: Image.Image) -> Image.Image:
    image.load()
    alpha, grey = _alpha(image), _grey8(image).convert("RGB").convert("L")
    if alpha is None or alpha.getextrema() == (255, 255):
        return grey
    shown = np.asarray(grey)[np.asarray(alpha) > 0]
    if not shown.size or int(shown.max()) - int(shown.min()) <= ONE_GREY:
        return alpha
    return ImageChops.multiply(grey, alpha)
