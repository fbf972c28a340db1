"""Adapters in PyTorch's pickle format: read where the user says so, and then as tensors alone.

``torch.load(weights_only=True)`` calls no code of the file, but it builds whatever its list of harmless things allows
(``bytearray(2**40)`` is one), unpacks compressed entries, and gives tensors of any shape. So the archive and the
instructions of its pickle are held against what ``torch.save`` writes for a table of tensors, before torch sees them,
and the tensors against the bytes that there are, afterwards.
"""

import pickletools
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detour.adapter_files.container import PICKLE_SUFFIXES, decode, read_file
from detour.adapter_files.limits import Limits
from detour.errors import AdapterError
from detour.printing import printable
from detour.safetensors_header import MOST_SIZES

_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32)
_STORAGES = ("DoubleStorage", "FloatStorage", "HalfStorage", "BFloat16Storage", "LongStorage", "IntStorage")
_GLOBALS = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    *(f"torch {storage}" for storage in _STORAGES),
}
_INSTRUCTIONS = {
    "PROTO", "STOP", "MARK", "GLOBAL", "REDUCE", "BUILD", "BINPERSID", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET",
    "BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "NONE", "NEWTRUE", "NEWFALSE",
    "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "SETITEM", "SETITEMS",
    "APPEND", "APPENDS",
}  # fmt: skip
"""What torch.save needs for tables of tensors: nothing that imports by a computed name, copies or calls by name."""

_REFERENCE_PARTS = {"image_proj", "ip_adapter"}
"""The two tables of an IP-Adapter's pickle; its safetensors have them as prefixes of names."""

_MAX_PICKLE_BYTES = 2 << 20
_MAX_INSTRUCTIONS = 1_000_000
_MAX_INT_BYTES = 16


def is_pickle_name(path: Path) -> bool:
    """Whether the name says that a file is a pickle."""
    return path.suffix.lower() in PICKLE_SUFFIXES


def read_tensors(
    path: Path, limits: Limits, *, finite: bool, allow_pickle: bool
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file, as its name says that it is one: never one kind after the other has failed.

    Raises:
        AdapterError: a pickle that is not allowed, or a file that is broken or beyond the limits.
    """
    if allow_pickle and is_pickle_name(path):
        return read_pickled(path, limits, finite=finite), {}
    return decode(read_file(path, limits), limits, where=str(path), finite=finite)


def read_pickled(path: Path, limits: Limits, *, finite: bool = True) -> dict[str, Tensor]:
    """Name → tensor of a ``torch.save`` file.

    Args:
        path: ``.pt``, ``.bin``, ``.ckpt`` …; the table of tensors, or one with it under ``state_dict``.
        limits: as for safetensors.
        finite: refuse NaN and infinity here; otherwise the caller does.

    Raises:
        AdapterError: not there, not what torch.save writes for tensors, beyond the limits, or not finite.
    """
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise AdapterError(f"{path}: not a file. Name a file.")
        if size > limits.max_file_bytes:
            raise AdapterError(
                f"{path}: {size / 2**20:,.0f} MiB, larger than an adapter can be. Is this a whole model?"
            )
        _check_archive(path, size, limits)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except AdapterError:
        raise
    except OSError as error:
        raise AdapterError(f"{path}: adapter cannot be read ({error.strerror}). Check the name.") from error
    except Exception as error:  # zip, pickle and torch each raise several kinds
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise AdapterError(f"{path}: not a file that torch.save wrote ({reason}). Fetch it again.") from error
    return _checked(path, loaded, size, limits, finite=finite)


def _check_archive(path: Path, size: int, limits: Limits) -> None:
    """The entries fill no more than the file, uncompressed, and the pickle has harmless instructions alone."""
    if not zipfile.is_zipfile(path):
        raise AdapterError(
            f"{path}: no archive of torch.save (an older kind of pickle, or none). Save it as safetensors."
        )
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if len(entries) > limits.max_tensors + 64:
            raise AdapterError(
                f"{path}: {len(entries):,} entries, the limit is {limits.max_tensors:,}. It is no adapter."
            )
        if any(
            entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size
            for entry in entries
        ):
            raise AdapterError(
                f"{path}: has compressed entries, which torch.save does not write. Use another file."
            )
        if sum(entry.file_size for entry in entries) > size:
            raise AdapterError(
                f"{path}: its entries overlap or claim more bytes than there are. Use another file."
            )
        pickles = [entry for entry in entries if entry.filename.endswith("data.pkl")]
        if len(pickles) != 1 or len({entry.filename for entry in entries}) < len(entries):
            raise AdapterError(
                f"{path}: {len(pickles)} pickles or entries twice in it, one is expected. Use another file."
            )
        if pickles[0].file_size > _MAX_PICKLE_BYTES:
            raise AdapterError(f"{path}: a pickle of {pickles[0].file_size:,} bytes. It is no adapter.")
        _check_instructions(path, archive.read(pickles[0]))


def _check_instructions(path: Path, data: bytes) -> None:
    for number, (instruction, argument, _) in enumerate(pickletools.genops(data)):
        if instruction.name not in _INSTRUCTIONS or number > _MAX_INSTRUCTIONS:
            raise AdapterError(
                f"{path}: its pickle does more than hold tensors ({instruction.name}). Do not open it."
            )
        if instruction.name == "GLOBAL" and argument not in _GLOBALS:
            shown = printable(str(argument), longest=60)
            raise AdapterError(f"{path}: its pickle names '{shown}', which no adapter needs. Do not open it.")
        if (
            instruction.name == "LONG1"
            and isinstance(argument, int)
            and argument.bit_length() > 8 * _MAX_INT_BYTES
        ):
            raise AdapterError(
                f"{path}: its pickle has a number of {argument.bit_length()} bits. Do not open it."
            )


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(name, str) for name in value)


def _checked(path: Path, loaded: Any, size: int, limits: Limits, *, finite: bool) -> dict[str, Tensor]:
    table = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if isinstance(table, dict) and set(table) == _REFERENCE_PARTS and all(map(_is_table, table.values())):
        table = {
            f"{part}.{name}": tensor for part, of_part in table.items() for name, tensor in of_part.items()
        }
    if not isinstance(table, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in table.items()
    ):
        raise AdapterError(f"{path}: holds no table of tensors. Use another file.")
    if len(table) > limits.max_tensors:
        raise AdapterError(
            f"{path}: {len(table):,} tensors, the limit is {limits.max_tensors:,}. It is no adapter."
        )
    total = 0
    for name, tensor in sorted(table.items()):
        shown = printable(name, longest=120)
        if (
            type(tensor) not in (Tensor, torch.nn.Parameter)
            or tensor.layout != torch.strided
            or tensor.ndim > MOST_SIZES
        ):
            raise AdapterError(f"{path}: '{shown}' is no plain tensor of at most {MOST_SIZES} sizes.")
        if tensor.dtype not in _DTYPES:
            raise AdapterError(f"{path}: '{shown}' has dtype {tensor.dtype}, which adapters do not have.")
        total += tensor.numel() * tensor.element_size()
        if total > size:  # tensors that are views of one another, or of one number
            raise AdapterError(
                f"{path}: its tensors stand for more numbers than the file holds. Use another file."
            )
        if finite and tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise AdapterError(
                f"{path}: '{shown}' holds NaN or infinity. The adapter is broken; use another one."
            )
    return {name: tensor.detach().contiguous() for name, tensor in table.items()}
