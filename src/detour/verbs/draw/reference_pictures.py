"""Reference pictures as a user names them: read, with the IP-Adapter that shows them and its image encoder."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from detour.adapter_files.reference_files import read_reference_adapter, require_fit
from detour.adapters.blocks import BlockWeight
from detour.adapters.reference_kinds import ReferenceFacts
from detour.bases.base import Base
from detour.bases.image_encoder import load_image_encoder, own_image_encoder, read_encoder_config
from detour.data.pictures import open_picture, read_bytes
from detour.errors import AdapterError, BaseError, ConfigError
from detour.generation.png import ReferenceUse
from detour.generation.references import ReferenceInUse, ReferenceTool
from detour.generation.strength import StepWeight
from detour.specs.generation import GenerateSpec
from detour.verbs.chosen_adapters import parse_weighted

MAX_MEGAPIXELS = 100.0

OWN_FOLDER = "reference"
"""Folder of a base with an IP-Adapter of its own: one ``.safetensors`` and ``image_encoder/``."""

PLACES = ("image_encoder", "../image_encoder", "../models/image_encoder", "../sdxl_models/image_encoder")
"""Where an image encoder stands beside an IP-Adapter's file, as its authors publish them."""


@dataclass(frozen=True, kw_only=True)
class References:
    """Reference pictures of one call.

    Attributes:
        in_use: as requests carry them.
        uses: as a picture's metadata name them.
    """

    in_use: tuple[ReferenceInUse, ...] = ()
    uses: tuple[ReferenceUse, ...] = ()


def open_references(spec: GenerateSpec, base: Base, *, device: str, dtype: torch.dtype) -> References:
    """Read the reference pictures of a call, its IP-Adapter and the image encoder.

    Args:
        spec: names the files.
        base: that draws; one with an IP-Adapter of its own needs no other.
        device: of the image encoder.
        dtype: of the image encoder.

    Raises:
        ConfigError: settings of references without a picture, or no IP-Adapter.
        DataError: a picture that cannot be read.
        AdapterError: the IP-Adapter is broken, or made for another base.
        BaseError: the image encoder is not there or is another one.
    """
    if not spec.references:
        if spec.reference_adapter or spec.reference_encoder or spec.reference_blocks or spec.reference_steps:
            raise ConfigError("an IP-Adapter shows a reference picture: name one with --reference PICTURE.")
        return References()
    tool, path = open_reference_tool(spec, base, device=device, dtype=dtype)
    in_use, uses = [], []
    for text in spec.references:
        picture, strength = parse_weighted(text, said="--reference ")
        one = read_reference(
            picture, tool, strength=strength, blocks=spec.reference_blocks, steps=spec.reference_steps
        )
        in_use.append(one)
        uses.append(
            ReferenceUse(
                sha256=one.sha256,
                strength=strength,
                adapter=path.stem,
                adapter_sha256=tool.adapter.sha256,
                blocks=spec.reference_blocks,
                steps=spec.reference_steps,
            )
        )
    return References(in_use=tuple(in_use), uses=tuple(uses))


def read_reference(
    path: Path,
    tool: ReferenceTool,
    *,
    strength: float,
    blocks: tuple[BlockWeight, ...] = (),
    steps: tuple[StepWeight, ...] = (),
) -> ReferenceInUse:
    """Read one reference picture.

    Args:
        path: of the picture.
        tool: that shows it.
        strength: 1 is as trained.
        blocks: (block, factor) on the strength.
        steps: (share of the steps that are done, factor on the strength from there on).

    Raises:
        DataError: the picture cannot be read.
    """
    data = read_bytes(path)
    image = open_picture(data, max_megapixels=MAX_MEGAPIXELS, name=str(path))
    return ReferenceInUse(
        tool=tool,
        picture=np.array(image, dtype=np.uint8),
        sha256=hashlib.sha256(data).hexdigest(),
        strength=strength,
        blocks=blocks,
        step_weights=steps,
    )


def open_reference_tool(
    spec: GenerateSpec, base: Base, *, device: str, dtype: torch.dtype
) -> tuple[ReferenceTool, Path]:
    """Read the IP-Adapter of a call and its image encoder.

    Args:
        spec: names the files.
        base: that draws; one with an IP-Adapter of its own needs no other.
        device: of the image encoder.
        dtype: of the image encoder.

    Returns:
        the tool, and the file of its IP-Adapter.

    Raises:
        ConfigError: no IP-Adapter.
        AdapterError: the IP-Adapter is broken, or made for another base.
        BaseError: the image encoder is not there or is another one.
    """
    path = adapter_path(spec, base)
    adapter = read_reference_adapter(path, allow_pickle=spec.allow_pickle)
    require_fit(adapter.facts, base, where=path.name)
    folder = encoder_folder(path, adapter.facts, spec.reference_encoder, base)
    return ReferenceTool(adapter, load_image_encoder(folder, dtype=dtype, device=device)), path


def adapter_path(spec: GenerateSpec, base: Base) -> Path:
    """The IP-Adapter that a call names, or the base's own.

    Raises:
        ConfigError: none was named, and the base has none.
        AdapterError: the file that was named is not there.
    """
    if spec.reference_adapter is not None:
        path = Path(spec.reference_adapter).expanduser()
        if not path.is_file():
            raise AdapterError(f"{path}: no such IP-Adapter. Name a .safetensors file.")
        return path
    own = own_adapters(base)
    if len(own) != 1:
        raise ConfigError(
            f"base '{base.name}' has no IP-Adapter of its own, which shows reference pictures to the network. Name "
            "one with --reference-adapter FILE (e.g. ip-adapter_sd15.safetensors of h94/IP-Adapter)."
        )
    return own[0]


def own_adapters(base: Base) -> list[Path]:
    """The IP-Adapter files that a base carries."""
    return sorted((base.folder / OWN_FOLDER).glob("*.safetensors"))


def encoder_folder(path: Path, facts: ReferenceFacts, named: str | None, base: Base) -> Path:
    """The folder of the image encoder that an IP-Adapter reads: the one named, one beside the file, or the base's own.

    Raises:
        BaseError: the one named is another one, or there is none beside the file.
    """
    key = "projection_dim" if facts.reads_pooled else "hidden_size"
    if named is not None:
        folder = Path(named).expanduser()
        width = read_encoder_config(folder).get(key)
        if width != facts.encoder_width:
            raise BaseError(
                f"{folder}: an image encoder of width {width}, and {path.name} reads {facts.encoder_words}. Name the "
                "folder of that one."
            )
        return folder
    seen: list[str] = []
    own = own_image_encoder(base.folder)
    for folder in (*(path.parent / place for place in PLACES), *([own] if own is not None else [])):
        if (folder / "config.json").is_file():
            width = read_encoder_config(folder).get(key)
            if width == facts.encoder_width:
                return folder
            seen.append(f"{folder} has {width}")
    found = f" ({'; '.join(seen)})" if seen else ""
    raise BaseError(
        f"{path.name} reads {facts.encoder_words}, and none is beside it{found}. Name its folder with "
        "--reference-encoder."
    )


def words_of_uses(uses: Sequence[ReferenceUse]) -> str:
    """The references of a sheet's column, in words."""
    return ", ".join(f"reference {number} ×{use.strength:g}" for number, use in enumerate(uses, start=1))
