"""Pictures that clients send: limited before they are decoded, and kept until their job is drawn."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from detour.errors import AdapterError
from detour.files import write_bytes
from detour.serving.refusals import BadRequest

FOLDER = "references"
"""Folder in the state folder of the server that keeps the reference pictures, start pictures and masks of jobs."""


def from_base64(text: str, param: str) -> bytes:
    """Decode base64, with or without a ``data:`` prefix.

    Args:
        text: as a client sent it.
        param: name of the field.

    Raises:
        BadRequest: not base64.
    """
    try:
        return base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequest(f"{param}: not base64.", param=param) from error


def require_small(data: bytes, *, max_bytes: int, max_pixels: int, name: str) -> None:
    """Refuse a picture whose file is large, or by its header one that would be large when it is decoded.

    Args:
        data: content of its file.
        max_bytes: limit of the file.
        max_pixels: limit of width times height.
        name: field that it came in.

    Raises:
        BadRequest: too large, or no PNG, JPEG or WebP file.
    """
    if len(data) > max_bytes:
        raise BadRequest(
            f"{name}: {len(data):,} bytes; the limit is {max_bytes:,}. Make it smaller.", param=name
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=["PNG", "JPEG", "WEBP"]) as image:
                width, height = image.size
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise unusable(name) from error
    if width * height > max_pixels:
        raise BadRequest(
            f"{name}: {width} x {height} pixels; the limit is {max_pixels:,}. Make it smaller.", param=name
        )


def unusable(name: str) -> BadRequest:
    """Error for a file that cannot be read as a picture."""
    return BadRequest(f"{name}: not readable as PNG, JPEG or WebP.", param=name)


def keep(state: Path, data: bytes) -> None:
    """Write a picture that a client sent into the state folder; durable when this returns.

    Args:
        state: folder of the server.
        data: content of its file, whose SHA-256 becomes its name.

    Raises:
        StorageError: it could not be written.
    """
    path = state / FOLDER / hashlib.sha256(data).hexdigest()
    if not path.exists():
        write_bytes(path, data)


def kept(state: Path, sha256: str, *, what: str) -> bytes:
    """Read a kept picture from the state folder.

    Args:
        state: folder of the server.
        sha256: of its content.
        what: the picture in messages.

    Raises:
        AdapterError: it is gone or damaged.
    """
    try:
        data = (state / FOLDER / sha256).read_bytes()
    except OSError as error:
        raise gone(what) from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise gone(what)
    return data


def gone(what: str) -> AdapterError:
    """Error for a kept picture that is not there any more, or is not what was kept."""
    return AdapterError(f"{what} of the job is gone or damaged. Ask for it again.")


def forget(state: Path, in_use: set[str]) -> None:
    """Delete kept pictures that no unfinished job and no held picture needs.

    Args:
        state: folder of the server.
        in_use: SHA-256 of each that is needed.
    """
    for path in (state / FOLDER).glob("*"):
        if path.name not in in_use and not path.name.startswith("."):
            path.unlink(missing_ok=True)
