"""Write an adapter: same adapter, same bytes; either the whole file or none."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from detour.adapter_files.container import encode
from detour.adapter_files.formats import Format, format_named
from detour.adapter_files.hashes import file_hashes
from detour.adapter_files.peft_format import CONFIG_NAME, WEIGHTS_NAME, to_peft
from detour.adapter_files.words import write_words
from detour.adapters.adapter import Adapter, FileDtype, FileFormat
from detour.bases.families import Family
from detour.errors import AdapterError
from detour.files import write_bytes, write_text

__all__ = ["DIFFUSERS_NAME", "FileDtype", "FileFormat", "write_adapter"]

DIFFUSERS_NAME = "pytorch_lora_weights.safetensors"

ALONE = (("unet",), ("transformer",), ("text_encoder",))
"""Parts whose PEFT folder needs no name: its paths tell which they are."""

TORCH_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def write_adapter(
    path: Path,
    adapter: Adapter,
    *,
    file_format: FileFormat = "kohya",
    family: Family,
    dtype: FileDtype = "fp32",
    fused: bool = True,
) -> Path:
    """Write ``adapter``, with its metadata and hashes.

    New words go into a kohya file; beside one of another format each is a textual inversion of its own.

    Args:
        path: a file for kohya and diffusers (a place without a suffix gets diffusers' usual name inside), a
            folder for peft (with a folder for each part when there are several).
        adapter: at least one layer.
        file_format: who reads it.
        family: names of the layers in kohya's format.
        dtype: of the factors; alphas are float32 always.
        fused: in a kohya file, join a transformer's layers to the original code's (q, k and v are one matrix there);
            DoRA and LoKr on some of them cannot be joined.

    Returns:
        The file or folder that was written.

    Raises:
        AdapterError: no layers, a layer that the format cannot name or hold, or values that ``dtype`` cannot hold.
        StorageError: disk full, no permission.
    """
    if not adapter.layers:
        raise AdapterError(f"{path}: the adapter has no layers, so there is nothing to write.")
    require_finite(adapter, TORCH_DTYPES[dtype], path)
    form = format_named(file_format)
    if form.by_part:
        return _write_parts(path, adapter, form, family, TORCH_DTYPES[dtype])
    path = file_in(path, form)
    tensors = form.tensors(adapter, "", family, TORCH_DTYPES[dtype], fused)
    if not form.holds_words:
        write_words(path, adapter.words)
    _write(path, tensors, without_derived(adapter.metadata) | form.about(adapter, family))
    return path


def file_in(path: Path, form: Format) -> Path:
    """The file itself; in a folder, diffusers' usual name."""
    return path if path.suffix or not form.is_folder else path / DIFFUSERS_NAME


def _write_parts(folder: Path, adapter: Adapter, form: Format, family: Family, dtype: torch.dtype) -> Path:
    write_words(folder / WEIGHTS_NAME, adapter.words)
    made = {part: to_peft(adapter, part, dtype) for part in adapter.parts}  # all or none
    for part, (tensors, config) in made.items():
        place = folder if adapter.parts in ALONE else folder / part
        write_text(place / CONFIG_NAME, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
        _write(place / WEIGHTS_NAME, tensors, without_derived(adapter.metadata) | form.about(adapter, family))
    return folder


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    write_bytes(path, encode(tensors, {**metadata, **file_hashes(tensors, metadata)}))


def without_derived(metadata: Mapping[str, str]) -> dict[str, str]:
    """What another file's bytes said of themselves does not hold for this one."""
    derived = (
        "sshs_model_hash",
        "sshs_legacy_hash",
        "modelspec.hash_sha256",
        "lora_adapter_metadata",
        "format",
    )
    return {key: value for key, value in metadata.items() if key not in derived}


def require_finite(adapter: Adapter, dtype: torch.dtype, path: Path) -> None:
    """Raise where a factor is, or would become, NaN or infinity.

    Raises:
        AdapterError: names the layer.
    """
    for key, layer in adapter.layers.items():
        for factor in layer.tensors.values():
            if not bool(torch.isfinite(factor.to(dtype)).all()):
                reason = "holds NaN or infinity" if dtype == torch.float32 else f"does not fit {dtype}"
                raise AdapterError(f"{path}: not written, '{key}' {reason}. Train again, or write fp32.")
