"""Single-file checkpoints of Stable Diffusion 1.x, 2.x and XL, read part by part.

The names inside are those of the original code (``model.diffusion_model.input_blocks…``). They are mapped one
by one to the names of the parts, so that only the tensors of one part are in memory at a time. What the tensors'
shapes cannot tell (heads, groups of the norms, picture size, whether SD 2 predicts noise or v, another tokenizer than
CLIP's) may stand in a folder ``NAME.config/`` beside ``NAME.safetensors``, in diffusers layout without weights.

Source: Rombach et al. 2022, arXiv:2112.10752, Podell et al. 2023, arXiv:2307.01952, and their published checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detour.bases import parts
from detour.bases.families import FAMILIES, FamilyName
from detour.bases.single_file_flow import files_of_flow, flow_family, open_flow, read_flow_part
from detour.bases.single_file_header import read_shapes
from detour.bases.single_file_names import place_of
from detour.bases.single_file_shapes import family_of_shapes, infer_configs
from detour.errors import BaseError

SHIPPED: Mapping[FamilyName, str] = {"sd1": "sd15", "sd2": "sd21", "sdxl": "sdxl"}
"""Families whose single files are known → the folder of their settings that comes with detour."""


def open_checkpoint(path: Path, shipped: Path) -> tuple[FamilyName, Path, dict[str, Mapping[str, Any]]]:
    """Settings of a single file: from ``NAME.config/`` beside it, else from the shapes of its tensors.

    Args:
        path: the checkpoint.
        shipped: the folder of the settings that come with detour.

    Returns:
        The family, the folder of the tokenizer and of what was not inferred, and the settings of each part.

    Raises:
        BaseError: damaged, of another family, or an adapter instead of a base.
    """
    shapes = read_shapes(path)
    beside = config_folder(path)
    flow = flow_family(shapes)
    if flow is not None:
        return flow, *open_flow(path, shapes, flow, shipped, beside)
    family = family_of_shapes(shapes, where=path.name)
    if beside.is_dir():
        return family, beside, {part: parts.read_config(beside, part) for part in _config_names(family)}
    return family, shipped / SHIPPED[family], known_configs(shapes, family, shipped, where=path.name)


def part_names(family: FamilyName) -> tuple[str, ...]:
    """The parts that stand in a single file."""
    return (FAMILIES[family].network_part, "vae", *FAMILIES[family].text_parts)


def _config_names(family: FamilyName) -> tuple[str, ...]:
    return (*part_names(family), "scheduler")


def known_configs(
    shapes: Mapping[str, tuple[int, ...]], family: FamilyName, shipped: Path, *, where: str
) -> dict[str, Mapping[str, Any]]:
    """Make the settings of each part from those that come with detour and from the shapes of the tensors.

    Args:
        shapes: tensor name → shape.
        family: of the checkpoint.
        shipped: the folder of the settings that come with detour.
        where: file name for messages.
    """
    folder = shipped / SHIPPED[family]
    inferred = infer_configs(shapes, family, where=where)
    return {
        part: {**parts.read_config(folder, part), **inferred.get(part, {})} for part in _config_names(family)
    }


def config_folder(path: Path) -> Path:
    """``NAME.config/`` beside ``NAME.safetensors``."""
    return path.with_name(f"{path.stem}.config")


def files_of(path: Path, family: FamilyName, names: Sequence[str]) -> list[Path]:
    """The files that a single-file base is read from: itself, and those beside it of SD 3 and Flux.

    Args:
        path: the checkpoint.
        family: of the checkpoint.
        names: the base's parts.
    """
    return [path] if family in SHIPPED else files_of_flow(path, read_shapes(path), family, names)


def read_part(
    path: Path, family: FamilyName, part: str, config: Mapping[str, Any], dtype: torch.dtype
) -> dict[str, Tensor]:
    """The tensors of one part under its own names.

    Raises:
        BaseError: a tensor is missing or of another shape, or the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    if family not in SHIPPED:
        return read_flow_part(path, read_shapes(path), family, part, config, dtype)
    wanted = {name: tuple(tensor.shape) for name, tensor in _empty_state(part, config).items()}
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt") as checkpoint:
            there = set(checkpoint.keys())
            for name, shape in wanted.items():
                place = place_of(family, part, name, config)
                original = _find(place.name, there)
                if original is None:
                    raise BaseError(f"{path.name}: lacks '{place.name}' of the {part}.")
                tensor = place.of(checkpoint.get_tensor(original))
                tensors[name] = _reshaped(path, original, tensor, shape).to(dtype).contiguous()
    except SafetensorError as error:
        raise BaseError(f"{path.name}: damaged ({error}). Fetch it again.") from error
    return tensors


def _empty_state(part: str, config: Mapping[str, Any]) -> dict[str, Tensor]:
    return dict(parts.empty_part(part, config).state_dict())


def _find(name: str, there: set[str]) -> str | None:
    """The tensor's name in the file; some writers leave out ``text_model.``."""
    choices = (name, name.replace(".text_model.", ".", 1))
    return next((choice for choice in choices if choice in there), None)


def _reshaped(path: Path, name: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The VAE's attention stands as 1x1 convolutions in the original and as Linear in diffusers."""
    if tuple(tensor.shape) == shape:
        return tensor
    if tuple(tensor.shape) == (*shape, 1, 1):
        return tensor[:, :, 0, 0]
    raise BaseError(
        f"{path.name}: '{name}' is {tuple(tensor.shape)} where {shape} is expected. Put the model's settings "
        f"into {config_folder(path).name}/ beside it."
    )
