"""Single-file checkpoints of Stable Diffusion 1.x, 2.x and XL, written in the layout of the original code."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detour.bases.base import Base
from detour.bases.hub import TOKENIZERS
from detour.bases.single_file import SHIPPED, config_folder, known_configs, part_names
from detour.bases.single_file_header import read_regions, read_shapes
from detour.bases.single_file_names import place_of
from detour.bases.single_file_text import put_together
from detour.errors import BaseError
from detour.files import write_text
from detour.tensor_files import write_tensors

STORED = {"F16": torch.float16, "BF16": torch.bfloat16}
"""Precisions besides fp32 that a part is loaded in as it is stored."""


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
    write_tensors(path, tensors, {"format": "pt"})
    write_configs(base, path)
    return path


def load_as_stored(base: Base, part: str) -> Any:
    """A part in the one precision of its weights; fp32 where they are mixed."""
    assert base.weights is not None
    files = [base.weights] if base.weights.is_file() else sorted((base.weights / part).glob("*.safetensors"))
    kinds = {region.dtype for file in files for region in read_regions(file).values()}
    dtype = STORED.get(kinds.pop(), torch.float32) if len(kinds) == 1 else torch.float32
    return base.load_part(part, dtype)


def write_configs(base: Base, path: Path) -> None:
    """Write ``NAME.config/`` beside a single file where its shapes alone would not bring the base's settings back.

    Raises:
        StorageError: disk full, no permission.
    """
    shipped = Path(__file__).parent / "configs"
    known = known_configs(read_shapes(path), base.family.name, shipped, where=path.name)
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
    for tokenizer in TOKENIZERS:
        if (base.folder / tokenizer).is_dir():
            shutil.copytree(base.folder / tokenizer, folder / tokenizer, dirs_exist_ok=True)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _as_original(part: str, name: str, tensor: Tensor) -> Tensor:
    is_attention = part == "vae" and re.search(r"\.attentions\.0\.to_\w+(\.0)?\.weight$", name)
    return tensor[:, :, None, None] if is_attention else tensor
