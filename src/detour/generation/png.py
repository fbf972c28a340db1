"""PNG files that carry how they were made: for other tools as text, for programs as JSON."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, ValidationError

from detour.errors import DataError
from detour.files import write_bytes
from detour.generation.schedulers import TITLES
from detour.specs.generation import Spacing


class AdapterUse(BaseModel):
    """One adapter that was switched on.

    Attributes:
        name: file name without its ending; no folder.
        weight: its strength.
        sha256: of the file.
        tensor_sha256: of the tensors alone, as A1111 and kohya identify networks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    weight: float
    sha256: str
    tensor_sha256: str = ""


class StartUse(BaseModel):
    """The picture that drawing began with.

    Attributes:
        sha256: of its file.
        strength: share of the steps that were drawn.
        mask_sha256: of the file of its mask; empty without one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    strength: float
    mask_sha256: str = ""


class SteeringUse(BaseModel):
    """Safe Latent Diffusion of one picture.

    Attributes:
        concept: that it was steered away from.
        strength: name of the settings.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    concept: str
    strength: Literal["medium", "strong"]


class ReferenceUse(BaseModel):
    """One reference picture that the network was shown.

    Attributes:
        sha256: of its file.
        strength: 1 is as the adapter was trained.
        adapter: file name of the IP-Adapter without its ending.
        adapter_sha256: of that file.
        blocks: (block, factor) on the strength in some blocks.
        steps: (share of the steps that are done, factor on the strength from there on).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    strength: float
    adapter: str
    adapter_sha256: str
    blocks: tuple[tuple[str, float], ...] = ()
    steps: tuple[tuple[float, float], ...] = ()


class PictureMetadata(BaseModel):
    """Everything that is needed to draw the picture again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    prompt: str
    negative_prompt: str = ""
    seed: int
    steps: int
    scheduler: str
    guidance_scale: float
    true_guidance_scale: float = 1.0
    """Classifier-free guidance of a base that is told ``guidance_scale``; 1 is none."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Shares of the steps at which classifier-free guidance began and ended."""
    deep_every: int = 1
    """The UNet's deeper blocks ran in the first of every so many steps."""
    width_px: int
    height_px: int
    base: str
    base_revision: str | None = None
    adapters: tuple[AdapterUse, ...] = ()
    adapter_steps: tuple[tuple[float, float], ...] = ()
    """(share of the steps that are done, factor on the adapters' weights from there on)."""
    merged: bool = False
    """Whether the adapters were added to the base's weights before it was drawn."""
    spacing: Spacing = "own"
    """Where the sampler's times lie on the schedule; ``own`` is what the base says."""
    eta: float = 0.0
    """Share of noise that the sampler added back."""
    start: StartUse | None = None
    """Picture that this one began as."""
    references: tuple[ReferenceUse, ...] = ()
    """Pictures that the network was shown beside the prompt."""
    device: str
    dtype: str
    batch: int
    width_class: int | None = None
    """Rows of the forward passes it was drawn in; older pictures have none."""
    threads: int
    versions: dict[str, str]
    safety: Literal["checked", "absent"]
    safety_flagged: bool | None = None
    steering: SteeringUse | None = None
    """Safe Latent Diffusion that its safety policy asked for."""
    policy: str = ""
    """Name, revision and hash of the safety policy that let it through; empty without one."""
    mark: str = ""
    """Fingerprint of the key of its invisible mark; empty without one."""
    moment: str = ""
    """``step 5 of 25`` for a picture of a trace; empty for a finished one."""


def parameters_text(metadata: PictureMetadata) -> str:
    """The ``parameters`` text that A1111 writes and other tools read."""
    tags = "".join(f" <lora:{use.name}:{use.weight:g}>" for use in metadata.adapters)
    lines = [metadata.prompt + tags]
    if metadata.negative_prompt:
        lines.append(f"Negative prompt: {metadata.negative_prompt}")
    fields = {
        "Steps": str(metadata.steps),
        "Sampler": TITLES.get(metadata.scheduler, metadata.scheduler),
        "CFG scale": f"{metadata.guidance_scale:g}",
        "Seed": str(metadata.seed),
        "Size": f"{metadata.width_px}x{metadata.height_px}",
        "Model": metadata.base,
    }
    if metadata.start is not None:
        fields["Denoising strength"] = f"{metadata.start.strength:g}"
    hashes = [f"{use.name}: {use.tensor_sha256[:12]}" for use in metadata.adapters if use.tensor_sha256]
    if hashes:
        fields["Lora hashes"] = json.dumps(", ".join(hashes), ensure_ascii=False)
    fields["Version"] = f"detour {metadata.versions.get('detour', '')}".strip()
    lines.append(", ".join(f"{name}: {value}" for name, value in fields.items()))
    return "\n".join(lines)


def save_png(
    path: Path,
    picture: np.ndarray,
    metadata: PictureMetadata | None = None,
    *,
    further: Mapping[str, str] | None = None,
) -> None:
    """Write one picture; equal picture and metadata, equal bytes.

    Args:
        path: ends in ``.png``.
        picture: uint8 (H, W, 3).
        metadata: written as ``parameters`` (text) and ``detour`` (JSON).
        further: name → text of further chunks, ASCII.

    Raises:
        StorageError: disk full or not writable.
    """
    save_image(path, Image.fromarray(picture), metadata, further=further)


def save_image(
    path: Path,
    image: Image.Image,
    metadata: PictureMetadata | None = None,
    *,
    further: Mapping[str, str] | None = None,
) -> None:
    """Write a Pillow image, e.g. a grid, with its settings."""
    write_bytes(path, encode_png(image, metadata, further=further))


def encode_png(
    image: Image.Image, metadata: PictureMetadata | None = None, *, further: Mapping[str, str] | None = None
) -> bytes:
    """Bytes of a PNG file with its text; equal picture and text, equal bytes.

    Args:
        image: RGB.
        metadata: written as ``parameters`` (text) and ``detour`` (JSON).
        further: name → text of further chunks, ASCII.
    """
    chunks = PngImagePlugin.PngInfo()
    if metadata is not None:
        chunks.add_text("parameters", parameters_text(metadata))
        chunks.add_text("detour", json.dumps(metadata.model_dump(), ensure_ascii=True))
    for name, text in (further or {}).items():
        chunks.add_text(name, text)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=chunks)
    return buffer.getvalue()


def read_png_metadata(path: Path) -> PictureMetadata | None:
    """What :func:`save_png` wrote, or ``None`` for a picture that detour did not draw.

    Raises:
        DataError: no PNG, or its ``detour`` text is damaged.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            text = dict(getattr(image, "text", {})).get("detour")
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not readable as PNG ({error}).") from error
    if text is None:
        return None
    try:
        return PictureMetadata.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        raise DataError(f"{path}: its detour metadata is damaged ({problem['msg']}).") from error
