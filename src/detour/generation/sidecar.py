"""A picture with all that tells where it comes from: PNG text, a signed manifest, and a JSON file beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError

from detour.errors import DataError
from detour.files import read_text, write_bytes, write_json
from detour.generation.png import PictureMetadata, encode_png

MAX_BYTES = 4 << 20


class Signs(Protocol):
    """What puts a signed manifest into the bytes of a finished PNG file (``detour.generation.signing``)."""

    def sign(self, png: bytes, metadata: PictureMetadata) -> bytes:
        """Return the file with its manifest."""


class Sidecar(BaseModel):
    """What stands in the JSON file beside a picture.

    Attributes:
        file: name of the picture's file.
        file_sha256: of the whole file as it was written.
        pixels_sha256: of the pixels alone, which is the same when the text of the file was taken off.
        picture: everything that is needed to draw the picture again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    file: str
    file_sha256: str
    pixels_sha256: str
    picture: PictureMetadata


def save_picture(
    path: Path,
    image: Image.Image | np.ndarray,
    metadata: PictureMetadata,
    *,
    further: Mapping[str, str] | None = None,
    signer: Signs | None = None,
) -> int:
    """Write a picture and its sidecar, both durable when this returns.

    The text is in the file before the file is signed: text that is added to a signed file breaks its signature.

    Args:
        path: ends in ``.png``.
        image: RGB, or uint8 (H, W, 3).
        metadata: of the picture.
        further: name → text of further chunks, ASCII.
        signer: puts a signed manifest into the file; ``None``: it has none.

    Returns:
        bytes of the picture's file.

    Raises:
        StorageError: disk full or not writable.
        ConfigError: the certificate cannot sign any more.
    """
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    data = encode_png(image, metadata, further=further)
    if signer is not None:
        data = signer.sign(data, metadata)
    write_bytes(path, data)
    made = Sidecar(
        file=path.name,
        file_sha256=hashlib.sha256(data).hexdigest(),
        pixels_sha256=pixels_sha256(np.asarray(image.convert("RGB"))),
        picture=metadata,
    )
    write_json(sidecar_of(path), made.model_dump(mode="json"))
    return len(data)


def sidecar_of(path: Path) -> Path:
    """Where the sidecar of a picture is: the same name, ending in ``.json``."""
    return path.with_suffix(".json")


def read_sidecar(path: Path) -> Sidecar | None:
    """Read the sidecar of a picture; ``None`` where there is none.

    Args:
        path: of the picture.

    Raises:
        DataError: it is damaged.
    """
    place = sidecar_of(path)
    if not place.is_file():
        return None
    text = read_text(place, max_bytes=MAX_BYTES, error=DataError)
    try:
        return Sidecar.model_validate_json(text)
    except ValidationError as error:
        raise DataError(
            f"{place}: no sidecar of a picture ({error.errors()[0]['msg']}). Remove it."
        ) from error


def pixels_sha256(pixels: np.ndarray) -> str:
    """Hex SHA-256 of a picture's size and pixels, whatever file they are in.

    Args:
        pixels: uint8 (H, W, 3).
    """
    shape = "x".join(str(side) for side in pixels.shape)
    return hashlib.sha256(shape.encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()
