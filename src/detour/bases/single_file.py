"""Single-file checkpoints of Stable Diffusion 1.x, 2.x and XL: read part by part, and written.

The names inside are those of the original code (``model.diffusion_model.input_blocks…``). They are mapped one
by one to the names of the parts, so that only the tensors of one part are in memory at a time. What the tensors'
shapes cannot tell (heads, groups of the norms, picture size, whether SD 2 predicts noise or v, another tokenizer than
CLIP's) may stand in a folder ``NAME.config/`` beside ``NAME.safetensors``, in diffusers layout without weights.

Source: Rombach et al. 2022, arXiv:2112.10752, Podell et al. 2023, arXiv:2307.01952, and their published checkpoints.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from detour.bases import parts
from detour.bases.families import FAMILIES, FamilyName
from detour.bases.single_file_flow import files_of_flow, flow_family, open_flow, read_flow_part
from detour.bases.single_file_names import place_of
from detour.bases.single_file_shapes import family_of_shapes, infer_configs
from detour.bases.single_file_text import put_together
from detour.errors import BaseError
from detour.files import write_text
from detour.safetensors_header import EVERY_DTYPE, HeaderRules, Region, read_header

if TYPE_CHECKING:
    from detour.bases.base import Base

SHIPPED: Mapping[FamilyName, str] = {"sd1": "sd15", "sd2": "sd21", "sdxl": "sdxl"}
"""Families whose single files are known → the folder of their settings that comes with detour."""

_RULES = HeaderRules(
    noun="base", error=BaseError, max_header_bytes=64 << 20, max_tensors=1 << 17, sizes=EVERY_DTYPE
)
STORED = {"F16": torch.float16, "BF16": torch.bfloat16}


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
    return family, shipped / SHIPPED[family], _known_configs(shapes, family, shipped, where=path.name)


def part_names(family: FamilyName) -> tuple[str, ...]:
    """The parts that stand in a single file."""
    return (FAMILIES[family].network_part, "vae", *FAMILIES[family].text_parts)


def _config_names(family: FamilyName) -> tuple[str, ...]:
    return (*part_names(family), "scheduler")


def _known_configs(
    shapes: Mapping[str, tuple[int, ...]], family: FamilyName, shipped: Path, *, where: str
) -> dict[str, Mapping[str, Any]]:
    folder = shipped / SHIPPED[family]
    inferred = infer_configs(shapes, family, where=where)
    return {
        part: {**parts.read_config(folder, part), **inferred.get(part, {})} for part in _config_names(family)
    }


def config_folder(path: Path) -> Path:
    """``NAME.config/`` beside ``NAME.safetensors``."""
    return path.with_name(f"{path.stem}.config")


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Tensor name → shape, from the header alone.

    Raises:
        BaseError: not a safetensors file.
    """
    return {name: region.shape for name, region in _regions(path).items()}


def _regions(path: Path) -> Mapping[str, Region]:
    """Tensor name → its place, shape and dtype."""
    try:
        return read_header(path, _RULES).regions
    except (OSError, BaseError) as error:
        cause = str(error).removeprefix(f"{path}: ").removesuffix(" Fetch it again.").rstrip(".")
        raise BaseError(f"{path.name}: not a readable safetensors file ({cause}). Fetch it again.") from error


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


def write_single_file(base: Base, path: Path, *, models: Mapping[str, Any] | None = None) -> Path:
    """Write a base as one checkpoint of the original layout, in the precision of its weights.

    Settings and tokenizer go into ``NAME.config/`` beside it where the shapes alone would not bring them
    back.

    Args:
        base: of family SD 1.x, SD 2.x or SDXL, with weights.
        path: ends in ``.safetensors``.
        models: parts to write instead of the base's own, e.g. ``{"unet": merged}``.

    Raises:
        BaseError: of another family.
    """
    family = base.family.name
    if family not in SHIPPED:
        raise BaseError(f"base '{base.name}' is {base.family.title}, of which no single files are written.")
    tensors: dict[str, Tensor] = {}
    for part in part_names(family):
        given = models or {}
        model = given[part] if part in given else load_as_stored(base, part)
        placed = {
            place_of(family, part, name, base.config(part)): _as_original(part, name, tensor.detach())
            for name, tensor in model.state_dict().items()
        }
        tensors |= {name: tensor.contiguous().cpu() for name, tensor in put_together(placed).items()}
    from detour.tensor_files import write_tensors

    write_tensors(path, tensors, {"format": "pt"})
    write_configs(base, path)
    return path


def load_as_stored(base: Base, part: str) -> Any:
    """A part in the one precision of its weights; fp32 where they are mixed."""
    assert base.weights is not None
    files = [base.weights] if base.weights.is_file() else sorted((base.weights / part).glob("*.safetensors"))
    kinds = {region.dtype for file in files for region in _regions(file).values()}
    dtype = STORED.get(kinds.pop(), torch.float32) if len(kinds) == 1 else torch.float32
    return base.load_part(part, dtype)


def write_configs(base: Base, path: Path) -> None:
    """Write ``NAME.config/`` beside a single file where its shapes alone would not bring the base's settings back.

    Raises:
        StorageError: disk full, no permission.
    """
    shipped = Path(__file__).parent / "configs"
    known = _known_configs(read_shapes(path), base.family.name, shipped, where=path.name)
    own = {part: base.config(part) for part in known}
    same = all(
        _plain(own[part].get(key)) == _plain(value) for part in known for key, value in known[part].items()
    )
    if same and all(own[part]["vocab_size"] == 49408 for part in base.family.text_parts):
        return
    folder = config_folder(path)
    for part, config in own.items():
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        write_text(folder / part / name, json.dumps(config, indent=2) + "\n")
    for tokenizer in ("tokenizer", "tokenizer_2"):
        if (base.folder / tokenizer).is_dir():
            shutil.copytree(base.folder / tokenizer, folder / tokenizer, dirs_exist_ok=True)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


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


def _as_original(part: str, name: str, tensor: Tensor) -> Tensor:
    is_attention = part == "vae" and re.search(r"\.attentions\.0\.to_\w+(\.0)?\.weight$", name)
    return tensor[:, :, None, None] if is_attention else tensor
