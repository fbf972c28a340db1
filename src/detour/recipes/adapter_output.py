"""Write an adapter and prove, from the file read back, that it stands for the change that was asked for."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from detour.adapter_files.limits import DEFAULT_LIMITS
from detour.adapter_files.reading import read_adapter
from detour.adapter_files.writing import FileDtype, FileFormat, write_adapter
from detour.adapters.adapter import Adapter
from detour.adapters.analysis import relative_differences
from detour.bases.families import Family
from detour.errors import AdapterError, ConfigError, ProofFailed
from detour.recipes.staging import staged

AnyDtype = Literal["auto", "fp32", "fp16", "bf16"]

LIMITS: dict[FileDtype, float] = {"fp32": 1e-6, "fp16": 2.0**-11, "bf16": 2.0**-8}
"""Largest relative difference of a layer's change after writing: the rounding unit in half precision."""

_STORED = {"F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Written:
    """A finished file and its proof.

    Attributes:
        path: the file or folder.
        dtype: of the factors in it.
        largest_difference: of a layer's change, relative, between what was asked for and what the file holds.
        at: the layer with that difference.
        limit: above which nothing would have been written.
    """

    path: Path
    dtype: FileDtype
    largest_difference: float
    at: str
    limit: float


def write_proved(
    out: Path,
    adapter: Adapter,
    *,
    file_format: FileFormat,
    family: Family,
    dtype: FileDtype,
    force: bool,
    compare: Callable[[Adapter, Adapter], dict[str, float]] = relative_differences,
) -> Written:
    """Write, read back, compare every layer's change; only then does the output stand in its place.

    Args:
        out: where it goes.
        adapter: what is written.
        file_format: of the output.
        family: for the names.
        dtype: of the factors.
        force: write over what stands there.
        compare: what was asked for and what was read back → relative difference by layer.

    Raises:
        ConfigError: the place is taken or does not go with the format.
        AdapterError: the format cannot hold the adapter.
        ProofFailed: a layer's change is not the one that was asked for; there is no output.
        StorageError: disk full, no permission.
    """
    refuse_place(out, file_format)
    with staged(out, force=force) as place:
        written = write_adapter(place, adapter, file_format=file_format, family=family, dtype=dtype)
        at, largest = worst(compare(adapter, read_adapter(written)))
        limit = LIMITS[dtype]
        if not largest <= limit:
            raise ProofFailed(
                f"{out}: not written, the change of '{at}' would differ by {largest:.2g} "
                f"(limit {limit:.2g} in {dtype}). Write it with --dtype fp32."
            )
        finished = out / written.relative_to(place) if written != place else out
    return Written(path=finished, dtype=dtype, largest_difference=largest, at=at, limit=limit)


def worst(differences: dict[str, float]) -> tuple[str, float]:
    """The layer with the largest difference."""
    at = max(differences, key=lambda key: differences[key])
    return at, differences[at]


def refuse_place(out: Path, file_format: FileFormat) -> None:
    """Raise where the name of the output does not go with its format.

    Raises:
        ConfigError: a file name for a folder, or the other way round.
    """
    is_file = out.suffix == ".safetensors"
    if file_format == "kohya" and not is_file:
        raise ConfigError(f"{out}: a kohya adapter is a file. Let its name end in .safetensors.")
    if file_format == "peft" and is_file:
        raise ConfigError(f"{out}: a PEFT adapter is a folder. Name one without .safetensors.")
    if file_format == "diffusers" and out.suffix and not is_file:
        raise ConfigError(f"{out}: name a file that ends in .safetensors, or a folder.")


def torch_dtype(name: str) -> torch.dtype:
    """``"F16"`` of a header → ``torch.float16``; whole numbers come as int64, anything else as float32."""
    return _STORED.get(name, torch.int64 if name.startswith("I") else torch.float32)


def header_of(path: Path) -> tuple[dict[str, tuple[tuple[int, ...], str]], dict[str, str]]:
    """Tensor name → (shape, dtype) and the metadata, from the header alone.

    Raises:
        AdapterError: no safetensors file, or a header beyond the limits.
    """
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= DEFAULT_LIMITS.max_header_bytes:
                raise ValueError(f"claims a header of {length:,} bytes")
            header = json.loads(stream.read(length))
        metadata = header.pop("__metadata__", {})
        tensors = {
            str(name): (tuple(int(side) for side in entry["shape"]), str(entry["dtype"]))
            for name, entry in header.items()
        }
        if len(tensors) > DEFAULT_LIMITS.max_tensors:
            raise ValueError(f"{len(tensors):,} tensors")
        return tensors, {str(key): str(value) for key, value in metadata.items()}
    except OSError as error:
        raise AdapterError(f"{path}: adapter cannot be read ({error.strerror}). Check the name.") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise AdapterError(f"{path}: not a safetensors file ({error}). Fetch it again.") from error


def inherited_metadata(
    adapters: Sequence[tuple[Adapter, str, float]], *, title: str, how: str
) -> dict[str, str]:
    """Metadata of an adapter made from others: what all of them say, and what it was made from.

    Args:
        adapters: (adapter, name, weight) each.
        title: shown to people.
        how: "compose", "resize", "extract".
    """
    first = adapters[0][0].metadata
    shared = {
        key: value
        for key, value in first.items()
        if all(adapter.metadata.get(key) == value for adapter, _, _ in adapters)
    }
    # The run's settings would not make this file again, and its picture does not show it.
    for key in ("detour.config", "modelspec.thumbnail", "modelspec.title", "ss_output_name"):
        shared.pop(key, None)
    parts = [{"name": name, "weight": weight} for _, name, weight in adapters]
    return shared | {
        "modelspec.title": title,
        "ss_output_name": title,
        f"detour.{how}": json.dumps(parts, ensure_ascii=False),
    }
