"""Writes a base as a diffusers folder, in the precision of its weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from detour.bases.parts import load_tokenizer
from detour.bases.quiet import quiet_libraries
from detour.bases.single_file import SHIPPED, part_names
from detour.bases.single_file_writing import load_as_stored
from detour.errors import BaseError
from detour.files import write_text

if TYPE_CHECKING:
    from detour.bases.base import Base


def write_folder(base: Base, folder: Path) -> Path:
    """Write every part of a base, its tokenizers, schedule and index.

    Args:
        base: of SD 1.x, SD 2.x or SDXL, with weights; a single file above all.
        folder: made if missing.

    Raises:
        BaseError: of another family.
        StorageError: disk full, no permission.
    """
    family = base.family.name
    if family not in SHIPPED:
        raise BaseError(f"base '{base.name}' is {base.family.title}, of which no folders are written.")
    for part in part_names(family):
        with quiet_libraries():
            load_as_stored(base, part).save_pretrained(folder / part)
    for part in base.text_parts:
        name = part.replace("text_encoder", "tokenizer")
        if (base.folder / name).is_dir():
            shutil.copytree(base.folder / name, folder / name, dirs_exist_ok=True)
        else:
            pad_token = base.pad_token(part)
            load_tokenizer(base.folder, part, pad_token=pad_token).save_pretrained(folder / name)
    schedule = json.dumps(base.scheduler_config(), indent=2)
    write_text(folder / "scheduler" / "scheduler_config.json", schedule + "\n")
    shipped = Path(__file__).parent / "configs" / SHIPPED[family] / "model_index.json"
    index = json.loads(shipped.read_text(encoding="utf-8"))
    index["scheduler"] = ["diffusers", base.scheduler_config().get("_class_name", index["scheduler"][1])]
    write_text(folder / "model_index.json", json.dumps(index, indent=2) + "\n")
    return folder
