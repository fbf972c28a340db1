"""The safetensors container: our own strict reader of the header, and a writer of reproducible bytes.

safetensors 0.8 loads duplicate keys and needs 9 s for a header of 400,000 tensors, so a header is checked
here before the library sees it. It also writes metadata in another order in each process, so the same
adapter would have other bytes; here keys are sorted.
"""

import errno
import json
import math
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from torch import Tensor

from detour.adapter_files.limits import Limits
from detour.adapters.adapter import FileDtype
from detour.errors import AdapterError

_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4}
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
}
_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_FILE_DTYPES: Mapping[torch.dtype, FileDtype] = {torch.float16: "fp16", torch.bfloat16: "bf16"}
_FILE_ORDER = ("F32", "BF16", "F16")
"""safetensors sorts by dtype, widest first, then by name; other tools' hashes of the data rely on it."""

_MOST_IN_METADATA = 1 << 16
"""Brackets in metadata, which holds JSON in its texts (tags, settings)."""

PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def encode(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file as bytes that depend on the content alone.

    Args:
        tensors: name → float32, float16 or bfloat16 tensor.
        metadata: strings only.
    """
    ordered = in_file_order((name, tensor.dtype) for name, tensor in tensors.items())
    header = header_bytes(
        ((name, tensors[name].dtype, tuple(tensors[name].shape)) for name in ordered), metadata
    )
    return b"".join([header, *(tensor_bytes(tensors[name]) for name in ordered)])


def in_file_order(kinds: Iterable[tuple[str, torch.dtype]]) -> list[str]:
    """The names of tensors, given with their dtypes, in the order in which a file holds them."""
    return [name for name, _ in sorted(kinds, key=lambda kind: (_FILE_ORDER.index(_NAMES[kind[1]]), kind[0]))]


def header_bytes(
    entries: Iterable[tuple[str, torch.dtype, tuple[int, ...]]], metadata: Mapping[str, str]
) -> bytes:
    """Everything of a safetensors file that stands before its data.

    Args:
        entries: name, dtype and shape of each tensor, in the order of a file.
        metadata: strings only.
    """
    header: dict[str, Any] = {}
    if metadata:
        header["__metadata__"] = dict(sorted(metadata.items()))
    offset = 0
    for name, dtype, shape in entries:
        end = offset + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def tensor_bytes(tensor: Tensor) -> bytes:
    """The numbers of a tensor, little-endian, row by row."""
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def dtype_of(tensors: Mapping[str, Tensor]) -> FileDtype:
    """The one precision of the factors; fp32 where they are mixed. Alphas are float32 whatever the factors are."""
    kinds = {tensor.dtype for tensor in tensors.values() if tensor.numel() > 1}
    return _FILE_DTYPES.get(kinds.pop(), "fp32") if len(kinds) == 1 else "fp32"


def read_file(path: Path, limits: Limits) -> bytes:
    """The bytes of a regular file that is no larger than allowed and no pickle.

    Of a file that is larger than any header, the header is checked before the rest is read: a lie of gigabytes
    costs no more than a small one.

    Raises:
        AdapterError: not there, not a file, too large, a pickle, or large with a header that lies.
    """
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise _pickle(path)
    try:
        num_bytes = _size_of(path, limits)
        with path.open("rb") as stream:
            data = stream.read(8 + limits.max_header_bytes)
            if num_bytes > len(data):
                if not _is_pickle(data):
                    _check_header(data, num_bytes, limits, str(path))
                stream.seek(0)
                data = stream.read(num_bytes)
    except OSError as error:
        raise AdapterError(f"{path}: adapter cannot be read ({error.strerror}). Check the name.") from error
    if _is_pickle(data):
        raise _pickle(path)
    return data


def refuse_link_out(path: Path, folder: Path) -> None:
    """A folder from elsewhere must not point at other files; the hub's own cache links to its ``blobs``.

    Raises:
        AdapterError: it does.
    """
    real, home = path.resolve(), folder.resolve()
    if not (real.is_relative_to(home) or real.is_relative_to(home.parent.parent / "blobs")):
        raise AdapterError(f"{path}: a link that leads out of its folder. Copy the file itself there.")


def _size_of(path: Path, limits: Limits) -> int:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise AdapterError(f"{path}: not a file. Name a .safetensors file.")
    if found.st_size > limits.max_file_bytes:
        size = f"{found.st_size / 2**20:,.0f} MiB"
        raise AdapterError(f"{path}: {size}, larger than an adapter can be. Is this a whole model?")
    return found.st_size


@dataclass(frozen=True, kw_only=True)
class Region:
    """Where a tensor lies in a file.

    Attributes:
        dtype: as safetensors names it: "F32", "F16", …
        shape: at most four sizes.
        begin: first byte, counted from the start of the file.
        num_bytes: what the shape needs.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    num_bytes: int

    @property
    def empty(self) -> Tensor:
        """A tensor of this shape and dtype on the meta device."""
        return torch.empty(self.shape, dtype=_DTYPES[self.dtype], device="meta")


def read_header(path: Path, limits: Limits) -> tuple[dict[str, Region], dict[str, str]]:
    """Every tensor's place and the metadata, checked as :func:`decode` does; the data is not read.

    Raises:
        AdapterError: not there, a pickle, or a header that lies or is beyond the limits.
    """
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise _pickle(path)
    try:
        num_bytes = _size_of(path, limits)
        with path.open("rb") as stream:
            start = stream.read(9)
            if _is_pickle(start):
                raise _pickle(path)
            length = min(int.from_bytes(start[:8], "little"), limits.max_header_bytes)
            data = start + stream.read(max(0, 8 + length - len(start)))
    except OSError as error:
        raise AdapterError(f"{path}: adapter cannot be read ({error.strerror}). Check the name.") from error
    metadata = _check_header(data, num_bytes, limits, str(path))
    header, begin = _header(data, limits, str(path))
    regions = {
        name: Region(
            dtype=entry["dtype"],
            shape=tuple(entry["shape"]),
            begin=begin + entry["data_offsets"][0],
            num_bytes=entry["data_offsets"][1] - entry["data_offsets"][0],
        )
        for name, entry in header.items()
        if name != "__metadata__"
    }
    return regions, metadata


def read_region(stream: BinaryIO, region: Region) -> Tensor:
    """One tensor of an open file, in the file's dtype.

    Raises:
        OSError: the file ends before it.
    """
    stream.seek(region.begin)
    data = bytearray(stream.read(region.num_bytes))
    if len(data) != region.num_bytes:
        raise OSError(errno.EIO, "it became shorter while it was read")
    dtype = _DTYPES[region.dtype]
    if not data:
        return torch.empty(region.shape, dtype=dtype)
    return torch.frombuffer(data, dtype=dtype).reshape(region.shape)


def _is_pickle(data: bytes) -> bool:
    """The length of a header can begin with a pickle's mark (640 does): behind it stands a table."""
    return data.startswith(_PICKLE_STARTS) and data[8:9] != b"{"


def _pickle(path: Path) -> AdapterError:
    known = path.suffix.lower() in PICKLE_SUFFIXES
    advice = ", or pass --allow-pickle to read its tensors alone" if known else ""
    return AdapterError(
        f"{path}: a pickle, which can run code when it is opened. Use a .safetensors file{advice}."
    )


def decode(
    data: bytes, limits: Limits, *, where: str, finite: bool = True
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Check every claim of the header, then load the tensors.

    Args:
        data: a whole file.
        limits: header size and number of tensors.
        where: named in errors.
        finite: refuse NaN and infinity here; otherwise the caller does.

    Returns:
        name → tensor (in the file's dtype), and the metadata.

    Raises:
        AdapterError: anything that is not a well-formed, finite file within the limits.
    """
    metadata = _check_header(data, len(data), limits, where)
    try:
        tensors = safetensors.torch.load(data)
    except Exception as error:  # the library raises several kinds
        raise AdapterError(f"{where}: not a safetensors file ({error}). Fetch it again.") from error
    for name, tensor in tensors.items():
        if finite and tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise AdapterError(
                f"{where}: '{_short(name)}' holds NaN or infinity. The adapter is broken; use another one."
            )
    return tensors, metadata


def _check_header(data: bytes, num_bytes: int, limits: Limits, where: str) -> dict[str, str]:
    """The metadata of a file of ``num_bytes``, of which ``data`` is the beginning with the whole header."""
    header, start = _header(data, limits, where)
    metadata = _metadata(header.pop("__metadata__", {}), where)
    if len(header) > limits.max_tensors:
        raise AdapterError(
            f"{where}: {len(header):,} tensors, the limit is {limits.max_tensors:,}. It is no adapter."
        )
    _check_regions(header, num_bytes - start, where)
    return metadata


def _header(data: bytes, limits: Limits, where: str) -> tuple[dict[str, Any], int]:
    if len(data) < 8:
        raise AdapterError(f"{where}: {len(data)} bytes are no safetensors file. Fetch it again.")
    length = int.from_bytes(data[:8], "little")
    if length > limits.max_header_bytes:
        raise AdapterError(
            f"{where}: claims a header of {length:,} bytes, the limit is {limits.max_header_bytes:,}."
        )
    if 8 + length > len(data):
        raise AdapterError(
            f"{where}: ends within its header, truncated after {len(data):,} bytes. Fetch it again."
        )
    # Each tensor opens a table and two lists, and metadata holds some in its texts: many more only cost time.
    opened = sum(data.count(mark, 8, 8 + length) for mark in (b"{", b"["))
    if opened > 4 * limits.max_tensors + _MOST_IN_METADATA:
        raise AdapterError(f"{where}: its header opens {opened:,} tables and lists. It is no adapter.")
    try:
        header = json.loads(
            data[8 : 8 + length].decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as error:
        raise AdapterError(
            f"{where}: its header is not valid ({_short(str(error))}). Fetch it again."
        ) from error
    if not isinstance(header, dict):
        raise AdapterError(f"{where}: its header is a {type(header).__name__}, not a table. Fetch it again.")
    return header, 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"'{_short(twice)}' stands there twice")
    return table


def _refuse_constant(name: str) -> None:
    raise ValueError(f"'{name}' is no number")


def _metadata(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise AdapterError(f"{where}: its metadata is not a table of strings.")
    return value


def _check_regions(header: Mapping[str, Any], num_bytes: int, where: str) -> None:
    """Tensors fill the data without gap or overlap, each with the bytes that its shape needs."""
    regions = sorted(
        (_region(name, entry, where) for name, entry in header.items()), key=lambda region: region[:2]
    )
    position = 0
    for begin, end, name in regions:
        if begin != position:
            raise AdapterError(
                f"{where}: '{_short(name)}' starts at byte {begin:,} of the data, expected {position:,}."
            )
        position = end
    if position != num_bytes:
        raise AdapterError(
            f"{where}: the tensors need {position:,} bytes, the file holds {num_bytes:,}. Fetch it again."
        )


def _region(name: str, entry: Any, where: str) -> tuple[int, int, str]:
    shown = _short(name)
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise AdapterError(f"{where}: '{shown}' is not described by dtype, shape and data_offsets.")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _SIZES:
        raise AdapterError(
            f"{where}: '{shown}' has dtype {_short(str(dtype))}; adapters have {', '.join(_SIZES)}."
        )
    if not _are_counts(shape) or len(shape) > 4:
        raise AdapterError(
            f"{where}: '{shown}' has the shape {_short(str(shape))}; at most 4 sizes are expected."
        )
    if not _are_counts(offsets) or len(offsets) != 2:
        raise AdapterError(
            f"{where}: '{shown}' has data_offsets {_short(str(offsets))}; a begin and an end are expected."
        )
    begin, end = offsets
    if end - begin != math.prod(shape) * _SIZES[dtype]:
        raise AdapterError(
            f"{where}: '{shown}' has {end - begin:,} bytes, which is not what its shape needs."
        )
    return begin, end, name


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 62 for value in values)


def _short(text: str) -> str:
    """Names from a file go into messages cut and printable, whatever the file holds."""
    shown = "".join(sign if sign.isprintable() else "?" for sign in text[:120])
    return shown + ("…" if len(text) > 120 else "")
