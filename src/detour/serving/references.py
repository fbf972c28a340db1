"""Reference pictures of requests: decoded within limits, kept until their job is drawn, and shown by an IP-Adapter."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from detour.bases.base import Base
from detour.bases.hardware import torch_dtype
from detour.data.pictures import open_picture
from detour.errors import AdapterError, DataError
from detour.files import write_bytes
from detour.generation.png import ReferenceUse
from detour.generation.references import ReferenceInUse, ReferenceTool
from detour.serving.engines import ServingEngine
from detour.serving.jobs import PinnedReference
from detour.serving.refusals import BadRequest
from detour.serving.settings import ReferencesSpec
from detour.specs.generation import GenerateSpec
from detour.verbs.draw.reference_pictures import open_reference_tool

FOLDER = "references"
"""Name of the folder of kept reference pictures in the state folder of the server."""
MAX_STRENGTH = 2.0


@dataclass(frozen=True, eq=False)
class DecodedReference:
    """A reference picture of a request that is within the limits.

    Attributes:
        data: content of its file.
        pixels: uint8 (H, W, 3).
        strength: 1 is as the IP-Adapter was trained.
        sha256: hex SHA-256 of ``data``.
    """

    data: bytes
    pixels: np.ndarray
    strength: float
    sha256: str

    def keep(self, state: Path) -> None:
        """Write the picture into the state folder; durable when this returns.

        Raises:
            StorageError: it could not be written.
        """
        path = state / FOLDER / self.sha256
        if not path.exists():
            write_bytes(path, self.data)


class ServedReferences:
    """The IP-Adapter of a server and its limits for reference pictures."""

    def __init__(self, spec: ReferencesSpec, tool: ReferenceTool, name: str) -> None:
        """Serve reference pictures with a tool that was loaded.

        Args:
            spec: limits.
            tool: IP-Adapter and image encoder.
            name: file name of the IP-Adapter without its ending.
        """
        self.spec, self.tool, self.name = spec, tool, name

    @classmethod
    def open(cls, spec: ReferencesSpec, base: Base, engine: ServingEngine, *, dtype: str) -> ServedReferences:
        """Load the IP-Adapter of the settings, or the base's own, with its image encoder.

        Raises:
            ConfigError: no IP-Adapter is named, and the base has none.
            AdapterError: it is broken, or made for another base.
            BaseError: the image encoder is not there or is another one.
        """
        named = GenerateSpec(
            prompts=("reference",),
            base=base.name,
            reference_adapter=None if spec.adapter is None else str(spec.adapter),
            reference_encoder=None if spec.encoder is None else str(spec.encoder),
        )
        tool, path = open_reference_tool(named, base, device=engine.device, dtype=torch_dtype(dtype))
        return cls(spec, tool, path.stem)

    def decoded(self, asked: Sequence[tuple[bytes, float]]) -> list[DecodedReference]:
        """Decode the reference pictures of a request.

        Args:
            asked: (content of a file, strength) of each.

        Raises:
            BadRequest: too many, too large, no picture, or a strength out of range.
        """
        if len(asked) > self.spec.max_pictures:
            raise BadRequest(
                f"{len(asked)} reference pictures: choose {self.spec.max_pictures} at most.",
                param="references",
            )
        return [self._decoded(data, strength, number) for number, (data, strength) in enumerate(asked)]

    def _decoded(self, data: bytes, strength: float, number: int) -> DecodedReference:
        name = f"references.{number}"
        if not 0 <= strength <= MAX_STRENGTH:  # NaN neither
            raise BadRequest(f"{name}: strength {strength:g}, choose 0 to {MAX_STRENGTH:g}.", param=name)
        if len(data) > self.spec.max_bytes:
            raise BadRequest(
                f"{name}: {len(data):,} bytes; the limit is {self.spec.max_bytes:,}. Make it smaller.",
                param=name,
            )
        _check_pixels(data, self.spec.max_pixels, name)
        try:
            image = open_picture(data, max_megapixels=self.spec.max_pixels / 1e6, name=name)
        except DataError as error:
            raise _unusable(name) from error
        pixels = np.array(image, dtype=np.uint8)
        return DecodedReference(data, pixels, float(strength), hashlib.sha256(data).hexdigest())

    def pinned(self, one: DecodedReference) -> PinnedReference:
        """The reference as a job keeps it."""
        return PinnedReference(
            sha256=one.sha256,
            strength=one.strength,
            adapter=self.name,
            adapter_sha256=self.tool.adapter.sha256,
        )

    def in_use(self, one: PinnedReference, state: Path) -> ReferenceInUse:
        """The reference as the engine takes it.

        Args:
            one: of a job.
            state: folder in which its picture is kept.

        Raises:
            AdapterError: the picture is gone or damaged, or the job was accepted with another IP-Adapter.
        """
        if one.adapter_sha256 != self.tool.adapter.sha256:
            raise AdapterError(
                f"the job was accepted with the IP-Adapter '{one.adapter}', and the server has '{self.name}' now. Ask "
                "for it again."
            )
        pixels = kept_reference(one, state, max_pixels=self.spec.max_pixels)
        return ReferenceInUse(tool=self.tool, picture=pixels, sha256=one.sha256, strength=one.strength)


def kept_reference(one: PinnedReference, state: Path, *, max_pixels: int) -> np.ndarray:
    """Read the reference picture of a job from the state folder.

    Args:
        one: of a job.
        state: folder in which its picture is kept.
        max_pixels: most that are decoded.

    Returns:
        uint8 (H, W, 3).

    Raises:
        AdapterError: the picture is gone or damaged.
    """
    try:
        data = (state / FOLDER / one.sha256).read_bytes()
        if hashlib.sha256(data).hexdigest() != one.sha256:
            raise DataError("another content")
        image = open_picture(data, max_megapixels=max_pixels / 1e6, name="the reference")
    except (OSError, DataError) as error:
        raise AdapterError(
            "the reference picture of the job is gone or damaged. Ask for it again."
        ) from error
    return np.array(image, dtype=np.uint8)


def use_of(one: PinnedReference) -> ReferenceUse:
    """The reference as a picture's metadata name it."""
    return ReferenceUse(
        sha256=one.sha256, strength=one.strength, adapter=one.adapter, adapter_sha256=one.adapter_sha256
    )


def forget_references(state: Path, in_use: set[str]) -> None:
    """Delete kept reference pictures that no unfinished job and no held picture needs."""
    for path in (state / FOLDER).glob("*"):
        if path.name not in in_use and not path.name.startswith("."):
            path.unlink(missing_ok=True)


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


def _check_pixels(data: bytes, most: int, name: str) -> None:
    """Refuse by its header a picture that would be large when it is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=["PNG", "JPEG", "WEBP"]) as image:
                width, height = image.size
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise _unusable(name) from error
    if width * height > most:
        raise BadRequest(
            f"{name}: {width} x {height} pixels; the limit is {most:,}. Make it smaller.", param=name
        )


def _unusable(name: str) -> BadRequest:
    return BadRequest(f"{name}: not readable as PNG, JPEG or WebP.", param=name)
