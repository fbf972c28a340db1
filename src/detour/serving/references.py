"""Reference pictures of requests: decoded within limits, kept until their job is drawn, and shown by an IP-Adapter."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detour.bases.base import Base
from detour.bases.hardware import torch_dtype
from detour.data.pictures import open_picture
from detour.errors import AdapterError, DataError
from detour.generation.png import ReferenceUse
from detour.generation.references import ReferenceInUse, ReferenceTool
from detour.serving.engines import ServingEngine
from detour.serving.jobs import PinnedReference
from detour.serving.refusals import BadRequest
from detour.serving.sent_pictures import gone, keep, kept, require_small, unusable
from detour.serving.settings import ReferencesSpec
from detour.specs.generation import GenerateSpec
from detour.verbs.draw.reference_pictures import open_reference_tool

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
        keep(state, self.data)


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
        require_small(data, max_bytes=self.spec.max_bytes, max_pixels=self.spec.max_pixels, name=name)
        try:
            image = open_picture(data, max_megapixels=self.spec.max_pixels / 1e6, name=name)
        except DataError as error:
            raise unusable(name) from error
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
    what = "the reference picture"
    data = kept(state, one.sha256, what=what)
    try:
        image = open_picture(data, max_megapixels=max_pixels / 1e6, name=what)
    except DataError as error:
        raise gone(what) from error
    return np.array(image, dtype=np.uint8)


def use_of(one: PinnedReference) -> ReferenceUse:
    """The reference as a picture's metadata name it."""
    return ReferenceUse(
        sha256=one.sha256, strength=one.strength, adapter=one.adapter, adapter_sha256=one.adapter_sha256
    )
