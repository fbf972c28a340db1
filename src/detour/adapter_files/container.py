"""The safetensors container of an adapter: read strictly, written reproducibly.

safetensors 0.8 writes metadata in another order in each process, so the same adapter would have other bytes; here keys
are sorted. Headers are read by :mod:`detour.safetensors_header`.
"""

import errno
import json
import math
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from torch import Tensor

from detour.adapter_files.limits import Limits
from detour.adapters.adapter import FileDtype
from detour.errors import AdapterError
from detour.printing import printable
from detour.safetensors_header import FLOATS_AND_INTS, HeaderRules, Region, parse_header

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

PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")
_MARK_BYTES = 16
"""What tells the kind of a file."""

_OTHER_KINDS = {
    b"\x89PNG\r\n\x1a\n": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF8": "a GIF picture",
    b"RIFF": "a WEBP picture, a sound or a video",
    b"BM": "a BMP picture",
    b"%PDF": "a PDF document",
    b"GGUF": "a GGUF model",
    b"\x1f\x8b": "a gzip archive",
    b"Rar!": "a RAR archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"<!DOCTYPE": "a web page, perhaps an error page that was saved",
    b"<!doctype": "a web page, perhaps an error page that was saved",
    b"<html": "a web page, perhaps an error page that was saved",
    b"version https://": "a Git LFS pointer, not the file that it stands for",
}
"""First bytes → what a file is that was taken for an adapter."""

_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def encode(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file as bytes that depend on the content alone.

    Args:
        tensors: name → float32, float16 or bfloat16 tensor.
        metadata: strings only.

    Raises:
        AdapterError: a number that is not finite, whoever asked for it.
    """
    for name, tensor in tensors.items():
        require_finite_tensor(name, tensor)
    ordered = in_file_order((name, tensor.dtype) for name, tensor in tensors.items())
    header = header_bytes(
        ((name, tensors[name].dtype, tuple(tensors[name].shape)) for name in ordered), metadata or None
    )
    return b"".join([header, *(tensor_bytes(tensors[name]) for name in ordered)])


def require_finite_tensor(name: str, tensor: Tensor) -> None:
    """Raise for a tensor that holds NaN or infinity: none is ever written.

    Raises:
        AdapterError: names it.
    """
    if not bool(torch.isfinite(tensor).all()):
        raise AdapterError(
            f"not written: '{printable(name, longest=120)}' would hold NaN or infinity in {tensor.dtype}. "
            "Write it with --dtype fp32, or use another adapter."
        )


def in_file_order(kinds: Iterable[tuple[str, torch.dtype]]) -> list[str]:
    """The names of tensors, given with their dtypes, in the order in which a file holds them."""
    return [name for name, _ in sorted(kinds, key=lambda kind: (_FILE_ORDER.index(_NAMES[kind[1]]), kind[0]))]


def header_bytes(
    entries: Iterable[tuple[str, torch.dtype, tuple[int, ...]]], metadata: Mapping[str, str] | None
) -> bytes:
    """Everything of a safetensors file that stands before its data.

    Args:
        entries: name, dtype and shape of each tensor, in the order of a file.
        metadata: strings only; an empty table is written as one, ``None`` is not.
    """
    header: dict[str, Any] = {}
    if metadata is not None:
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
                _refuse_other_kind(data, path)
                parse_header(data, num_bytes, _rules(limits), where=str(path))
                stream.seek(0)
                data = stream.read(num_bytes)
    except OSError as error:
        raise AdapterError(f"{path}: adapter cannot be read ({error.strerror}). Check the name.") from error
    _refuse_other_kind(data, path)
    return data


def refuse_link_out(path: Path, folder: Path) -> None:
    """A folder from elsewhere must not point at other files; the hub's own cache links to its ``blobs``.

    Raises:
        AdapterError: it does.
    """
    try:
        real, home = path.resolve(), folder.resolve()
    except (OSError, RuntimeError) as error:  # pathlib raises the second for a loop
        raise AdapterError(f"{path}: a link that leads to itself. Copy the file itself there.") from error
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


def empty_tensor(region: Region) -> Tensor:
    """A tensor of this shape and dtype on the meta device."""
    return torch.empty(region.shape, dtype=_DTYPES[region.dtype], device="meta")


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
            start = stream.read(_MARK_BYTES)
            _refuse_other_kind(start, path)
            length = min(int.from_bytes(start[:8], "little"), limits.max_header_bytes)
            data = start + stream.read(max(0, 8 + length - len(start)))
    except OSError as error:
        raise AdapterError(f"{path}: adapter cannot be read ({error.strerror}). Check the name.") from error
    header = parse_header(data, num_bytes, _rules(limits), where=str(path))
    return dict(header.regions), dict(header.metadata)


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


def _rules(limits: Limits) -> HeaderRules:
    return HeaderRules(
        noun="adapter",
        error=AdapterError,
        max_header_bytes=limits.max_header_bytes,
        max_tensors=limits.max_tensors,
        sizes=FLOATS_AND_INTS,
    )


def _refuse_other_kind(data: bytes, path: Path) -> None:
    """Raise for a pickle, and for what is plainly no safetensors file, by its first bytes.

    The length of a header can begin with any mark: behind it stands a table.
    """
    if _is_pickle(data):
        raise _pickle(path)
    kind = next((kind for mark, kind in _OTHER_KINDS.items() if data.startswith(mark)), None)
    if kind is not None and data[8:9] != b"{":
        raise AdapterError(f"{path}: {kind}, not an adapter. Name a .safetensors file.")


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
    metadata = dict(parse_header(data, len(data), _rules(limits), where=where).metadata)
    try:
        # The library hands them out in another order each time.
        tensors = dict(sorted(safetensors.torch.load(data).items()))
    except Exception as error:  # the library raises several kinds
        raise AdapterError(f"{where}: not a safetensors file ({error}). Fetch it again.") from error
    for name, tensor in tensors.items():
        if finite and tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise AdapterError(
                f"{where}: '{printable(name, longest=120)}' holds NaN or infinity. "
                "The adapter is broken; use another one."
            )
    return tensors, metadata
