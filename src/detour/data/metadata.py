"""Tables of pictures and captions: ``metadata.jsonl`` and ``metadata.csv``, as hub data sets have them."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from detour.data.captions import one_line
from detour.errors import DataError
from detour.files import is_unicode, lines_of, read_text

METADATA_NAMES = ("metadata.jsonl", "metadata.csv")
CAPTION_COLUMNS = ("text", "caption", "prompt")
MAX_METADATA_BYTES = 256 * 1024 * 1024


def read_rows(table: Path) -> list[tuple[str, str | None]]:
    """(file name relative to the table's folder, caption or ``None``) of each row.

    Names that lead out of the folder by themselves are refused; links that stand inside it, such as those of a hub
    snapshot, are the user's own and are followed, as everywhere.

    Raises:
        DataError: malformed, no rows, a name twice, or one that is absolute or contains ``..``.
    """
    rows = list(_jsonl_rows(table) if table.suffix.lower() == ".jsonl" else _csv_rows(table))
    found: dict[str, str | None] = {}
    for number, row in rows:
        file_name = row.get("file_name")
        if not isinstance(file_name, str) or not file_name:
            raise DataError(
                f"{table}, row {number}: no 'file_name' (found {', '.join(map(str, row)) or 'nothing'})."
            )
        text = next((row[column] for column in CAPTION_COLUMNS if isinstance(row.get(column), str)), "")
        if not is_unicode(file_name + text):
            raise DataError(
                f"{table}, row {number}: half of a surrogate pair, which is no character. Remove it."
            )
        if _leads_out(file_name):
            raise DataError(
                f"{table}, row {number}: '{file_name}' is outside of the data folder. Move it inside."
            )
        name = PurePosixPath(file_name).as_posix()
        if name in found:
            raise DataError(f"{table}: '{name}' has more than one row. Keep one.")
        found[name] = one_line(text) or None
    if not found:
        raise DataError(f"{table}: no rows. Write one a picture, with 'file_name' and 'text'.")
    return list(found.items())


def _leads_out(file_name: str) -> bool:
    """Whether a name is absolute or contains ``..``, with either system's separators."""
    path = PureWindowsPath(file_name)
    return ".." in path.parts or bool(path.anchor) or "\x00" in file_name


def _jsonl_rows(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    text = read_text(table, max_bytes=MAX_METADATA_BYTES, error=DataError)
    for number, line in enumerate(lines_of(text), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise DataError(f"{table}, line {number}: not valid JSON ({error}).") from error
        if not isinstance(row, dict):
            raise DataError(f"{table}, line {number}: expected an object with 'file_name' and 'text'.")
        yield number, row


def _csv_rows(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    text = read_text(table, max_bytes=MAX_METADATA_BYTES, error=DataError)
    try:
        for number, row in enumerate(csv.DictReader(io.StringIO(text, newline=""), strict=True), start=2):
            yield number, dict(row)
    except csv.Error as error:
        raise DataError(f"{table}: not valid CSV ({error}).") from error
