"""Colours of a picture's own profile as sRGB, which is what bases were trained on."""

import functools
import io
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms

SAME_STEPS = 2
"""A profile that moves no colour by more than so many steps of 255 is sRGB, and its pixels are left as they are."""

SRGB_GAMMA = 0.45455
SRGB_CHROMATICITY = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
"""What a PNG's ``gAMA`` and ``cHRM`` say of sRGB: x and y of white, red, green and blue. Source: PNG 3, 11.3.2."""
SRGB_CODE_POINTS = (1, 13, 0, 1)
"""A PNG's ``cICP`` of sRGB: primaries of BT.709, transfer of IEC 61966-2-1, RGB, full range. Source: ITU-T H.273."""

MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""Colour space of a profile → mode that its transform takes."""


def colour_transform(image: Image.Image) -> tuple[Any, tuple[str, ...]]:
    """How an image's colours become sRGB, and what cannot be known of them.

    Returns:
        (a transform for :func:`converted`, ``None`` where the colours are sRGB already or taken for it; remarks).
    """
    profile = image.info.get("icc_profile")
    if not profile:
        return None, _without_profile(image)
    try:
        mode, transform = _transform(profile)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None, ("its colour profile cannot be read, its colours are taken as sRGB",)
    if not _fits(image.mode, mode):
        return None, ("its colour profile is one for other pixels, its colours are taken as sRGB",)
    return transform, ()


def converted(image: Image.Image, transform: Any) -> Image.Image:
    """RGB of an image of 8 bits a channel; transparency is dropped.

    Args:
        image: of any mode.
        transform: of :func:`colour_transform`; ``None`` leaves the colours as they are.
    """
    if transform is None:
        return image.convert("RGBA").convert("RGB") if image.has_transparency_data else image.convert("RGB")
    if image.mode != transform.input_mode:
        image = image.convert(transform.input_mode)
    result = ImageCms.applyTransform(image, transform)
    assert result is not None, "only a transform in place returns nothing"
    return result


def _without_profile(image: Image.Image) -> tuple[str, ...]:
    if image.mode == "CMYK":
        return ("CMYK without a colour profile, its colours are a guess",)
    if chunk := _foreign_chunk(image):
        return (f"its {chunk} says other colours than sRGB's, and they are taken as sRGB",)
    # DCF 2.0: cameras mark Adobe RGB by this entry alone.
    exif = image.getexif()
    if exif.get_ifd(ExifTags.IFD.Exif) and exif.get_ifd(ExifTags.IFD.Interop).get(1) == "R03":
        return ("marked as Adobe RGB and without a colour profile, its colours are taken as sRGB",)
    return ()


def _foreign_chunk(image: Image.Image) -> str:
    """The chunk by which a PNG without a profile says that its colours are not sRGB's; empty where none does.

    By PNG 3, 13.14, ``cICP`` goes before ``sRGB``, and that before ``gAMA`` and ``cHRM``.
    """
    if image.format != "PNG":
        return ""
    if (points := _code_points(image)) is not None:
        return "" if points == SRGB_CODE_POINTS else "cICP chunk"
    info = image.info
    if "srgb" in info:
        return ""
    if abs(info.get("gamma", SRGB_GAMMA) - SRGB_GAMMA) > 0.005:
        return "gAMA chunk"
    places = info.get("chromaticity", SRGB_CHROMATICITY)
    far = any(abs(one - ours) > 0.005 for one, ours in zip(places, SRGB_CHROMATICITY, strict=True))
    return "cHRM chunk" if far else ""


def _code_points(image: Image.Image) -> tuple[int, ...] | None:
    """The four numbers of a PNG's ``cICP``; ``None`` without one. Pillow (13.0) drops that chunk."""
    stream = getattr(image, "fp", None)
    if not isinstance(stream, io.BytesIO):
        return None
    data, at = stream.getbuffer(), 8  # behind the signature
    while at + 8 <= len(data):
        length, name = int.from_bytes(data[at : at + 4], "big"), bytes(data[at + 4 : at + 8])
        if name == b"cICP" and length == 4:
            return tuple(data[at + 8 : at + 12])
        if name in (b"IDAT", b"IEND"):
            return None
        at += 12 + length  # of the length, the name and the checksum too
    return None


def _fits(mode: str, profile_mode: str) -> bool:
    if profile_mode == "CMYK" or mode == "CMYK":
        return mode == profile_mode
    return profile_mode == "RGB" or mode in ("1", "L", "LA", "I", "I;16")


@functools.lru_cache(maxsize=32)
def _transform(profile: bytes) -> tuple[str, Any]:
    """(mode that it takes, transform to sRGB or ``None`` where it would change nothing)."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    space = str(source.profile.xcolor_space).strip()
    if space not in MODES:
        raise ValueError(f"a profile of the colour space {space}")
    mode = MODES[space]
    transform = ImageCms.buildTransform(
        source,
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    if mode == "CMYK":
        return mode, transform
    colours = (
        _every_tenth_colour() if mode == "RGB" else Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    )
    plain = np.asarray(colours.convert("RGB"), dtype=np.int16)
    moved = np.abs(np.asarray(ImageCms.applyTransform(colours, transform), dtype=np.int16) - plain).max()
    return mode, transform if moved > SAME_STEPS else None


def _every_tenth_colour() -> Image.Image:
    steps = np.linspace(0, 255, 26).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1)
    return Image.fromarray(grid.reshape(26, 676, 3))
