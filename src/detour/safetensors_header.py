"""The header of a safetensors file, read strictly: every claim is checked before anything is made of it.

safetensors 0.8 loads duplicate keys and needs 9 s for a header of 400,000 tensors, so headers are checked here before
the library sees them.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detour.errors import DetourError
from detour.printing import printable

FLOATS_AND_INTS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4}
"""Dtype as safetensors names it → bytes of a number, of what adapters hold."""

EVERY_DTYPE = FLOATS_AND_INTS | {
    "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I8": 1, "U8": 1, "BOOL": 1, "I16": 2, "U16": 2, "U32": 4, "U64": 8,
    "C64": 8,
}  # fmt: skip

MOST_SIZES = 5
"""Sizes of a tensor: the weight of a 3-D convolution has five."""

_MOST_IN_METADATA = 1 << 16
"""Brackets in metadata, which holds JSON in its texts (tags, settings)."""


@dataclass(frozen=True, kw_only=True)
class HeaderRules:
    """What a header may claim.

    Attributes:
        noun: what the file should be, for messages: "adapter" or "base".
        error: what is raised.
        max_header_bytes: names, shapes and metadata.
        max_tensors: in one file.
        sizes: dtype → bytes of a number.
    """

    noun: str
    error: type[DetourError]
    max_header_bytes: int
    max_tensors: int
    sizes: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Region:
    """Where a tensor lies in a file.

    Attributes:
        dtype: as safetensors names it: "F32", "F16", …
        shape: at most five sizes.
        begin: first byte, counted from the start of the file.
        num_bytes: what the shape needs.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class Header:
    """A checked header: the place of every tensor, and the metadata."""

    regions: Mapping[str, Region]
    metadata: Mapping[str, str]


def read_header(path: Path, rules: HeaderRules) -> Header:
    """Read and check the header of a file; the tensors are not read.

    Raises:
        OSError: not there, or not readable.
        DetourError: as :func:`parse_header`.
    """
    num_bytes = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(8)
        length = min(int.from_bytes(start, "little"), rules.max_header_bytes)
        return parse_header(start + stream.read(length), num_bytes, rules, where=str(path))


def parse_header(data: bytes, num_bytes: int, rules: HeaderRules, *, where: str) -> Header:
    """Check the header of a file of ``num_bytes``, of which ``data`` is the beginning with the whole header.

    Raises:
        DetourError: of the kind that the rules name: cut short, too large, not JSON, a key twice, metadata that are no
            strings, or tensors that overlap, leave a gap or have other bytes than their shapes need.
    """
    table, start = _table(data, rules, where)
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise rules.error(f"{where}: its metadata is not a table of strings.")
    if len(table) > rules.max_tensors:
        raise rules.error(
            f"{where}: {len(table):,} tensors, the limit is {rules.max_tensors:,}. It is no {rules.noun}."
        )
    regions = {name: _region(name, entry, start, rules, where) for name, entry in table.items()}
    _require_filled(regions, start, num_bytes, rules, where)
    return Header(regions=regions, metadata=metadata)


def data_start(data: bytes) -> int:
    """First byte behind the header of a file that begins with ``data``."""
    return 8 + int.from_bytes(data[:8], "little")


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object hook that refuses a key which stands there twice.

    Raises:
        ValueError: names the key.
    """
    table = dict(pairs)
    if len(table) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"'{_short(twice)}' stands there twice")
    return table


def no_constant(name: str) -> None:
    """A JSON hook that refuses NaN and Infinity, which JSON has not.

    Raises:
        ValueError: always.
    """
    raise ValueError(f"'{name}' is no number")


def _table(data: bytes, rules: HeaderRules, where: str) -> tuple[dict[str, Any], int]:
    if len(data) < 8:
        raise rules.error(f"{where}: {len(data)} bytes are no safetensors file. Fetch it again.")
    start = data_start(data)
    if start - 8 > rules.max_header_bytes:
        raise rules.error(
            f"{where}: claims a header of {start - 8:,} bytes, the limit is {rules.max_header_bytes:,}."
        )
    if start > len(data):
        raise rules.error(
            f"{where}: ends within its header, truncated after {len(data):,} bytes. Fetch it again."
        )
    # Each tensor opens a table and two lists, and metadata holds some in its texts: many more only cost time.
    opened = sum(data.count(mark, 8, start) for mark in (b"{", b"["))
    if opened > 4 * rules.max_tensors + _MOST_IN_METADATA:
        raise rules.error(f"{where}: its header opens {opened:,} tables and lists. It is no {rules.noun}.")
    try:
        table = json.loads(
            data[8:start].decode("utf-8"), object_pairs_hook=unique_keys, parse_constant=no_constant
        )
    except (ValueError, RecursionError) as error:
        raise rules.error(
            f"{where}: its header is not valid ({_short(str(error))}). Fetch it again."
        ) from error
    if not isinstance(table, dict):
        raise rules.error(f"{where}: its header is a {type(table).__name__}, not a table. Fetch it again.")
    return table, start


def _require_filled(
    regions: Mapping[str, Region], start: int, num_bytes: int, rules: HeaderRules, where: str
) -> None:
    """Tensors fill the data without gap or overlap."""
    position = start
    for name, region in sorted(regions.items(), key=lambda item: (item[1].begin, item[1].num_bytes)):
        if region.begin != position:
            raise rules.error(
                f"{where}: '{_short(name)}' starts at byte {region.begin - start:,} of the data, expected "
                f"{position - start:,}."
            )
        position += region.num_bytes
    if position != num_bytes:
        raise rules.error(
            f"{where}: the tensors need {position - start:,} bytes, the file holds {num_bytes - start:,}. "
            "Fetch it again."
        )


def _region(name: str, entry: Any, start: int, rules: HeaderRules, where: str) -> Region:
    shown = _short(name)
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise rules.error(f"{where}: '{shown}' is not described by dtype, shape and data_offsets.")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in rules.sizes:
        raise rules.error(
            f"{where}: '{shown}' has dtype {_short(str(dtype))}; {rules.noun}s have {', '.join(rules.sizes)}."
        )
    if not _are_counts(shape) or len(shape) > MOST_SIZES:
        raise rules.error(
            f"{where}: '{shown}' has the shape {_short(str(shape))}; at most {MOST_SIZES} sizes are expected."
        )
    if not _are_counts(offsets) or len(offsets) != 2:
        raise rules.error(
            f"{where}: '{shown}' has data_offsets {_short(str(offsets))}; a begin and an end are expected."
        )
    begin, end = offsets
    if end - begin != math.prod(shape) * rules.sizes[dtype]:
        raise rules.error(f"{where}: '{shown}' has {end - begin:,} bytes, which is not what its shape needs.")
    return Region(dtype=dtype, shape=tuple(shape), begin=start + begin, num_bytes=end - begin)


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 62 for value in values)


def _short(text: str) -> str:
    return printable(text, longest=120)
