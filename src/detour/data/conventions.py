"""Which pictures a folder holds, by the conventions that people use, and what each picture's caption is."""

import csv
import io
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detour.data.captions import one_line, read_sidecar, read_text
from detour.data.masks import is_mask
from detour.data.pictures import OTHER_PICTURE_SUFFIXES, SUFFIXES
from detour.errors import DataError
from detour.specs.data import Role

KOHYA_FOLDER = re.compile(r"(?P<repeats>\d+)_(?P<words>.+)")
METADATA_NAMES = ("metadata.jsonl", "metadata.csv")
CAPTION_COLUMNS = ("text", "caption", "prompt")
MAX_METADATA_BYTES = 256 * 1024 * 1024
MAX_REPEATS = 10_000
KOHYA_TRAIN = "img"
KOHYA_CLASS = "reg"
"""Folders of kohya's own layout: ``img/10_sks dog`` and, for regularisation, ``reg/1_dog``."""


@dataclass(frozen=True)
class Entry:
    """A picture that was found, not opened yet.

    Attributes:
        name: relative to the data set, with ``/``.
        source: the file, or the bytes of one.
        caption: as it stands there; None when there is none.
        repeats: how often it is shown in one epoch.
        role: ``class`` for kohya's regularisation pictures.
        group: kohya's folder name, under which its tags are counted; empty elsewhere.
        words: a caption for want of a better one: the words of a kohya folder that was named itself.
    """

    name: str
    source: Path | bytes
    caption: str | None
    repeats: int = 1
    role: Role = "train"
    group: str = ""
    words: str | None = None


@dataclass(frozen=True)
class Found:
    """All entries of a data set, the convention in words, and remarks on what was left out."""

    entries: list[Entry]
    convention: str
    remarks: list[str] = field(default_factory=list)


def find_entries(source: Path) -> Found:
    """Recognise one picture, a ``metadata`` file, kohya's ``10_name`` folders or ``.txt`` sidecars.

    Raises:
        DataError: nothing there, no pictures, or a malformed metadata file; says what was found instead.
    """
    if source.is_file():
        return _one_picture(source)
    if not source.is_dir():
        raise DataError(f"{source}: no such folder of pictures. Name a folder, or hub:ID for a hub data set.")
    for name in METADATA_NAMES:
        if (source / name).is_file():
            return _metadata(source, source / name)
    for place in (source, source / KOHYA_TRAIN):
        if any(_pictures(folder) for folder, _ in _kohya_folders(place)):
            return _kohya(source, place)
    return _sidecars(source)


def _one_picture(source: Path) -> Found:
    if source.suffix.lower() not in SUFFIXES:
        raise DataError(
            f"{source}: neither a folder nor a PNG, JPEG or WEBP picture. Name a folder of pictures."
        )
    return Found([Entry(source.name, source, read_sidecar(source))], "one picture")


def _sidecars(source: Path) -> Found:
    pictures = _pictures(source)
    if not pictures:
        raise _no_pictures(source)
    named = KOHYA_FOLDER.fullmatch(source.resolve().name)
    words = _words(named) if named else None
    entries = [Entry(path.name, path, read_sidecar(path), words=words) for path in pictures]
    captioned = sum(entry.caption is not None for entry in entries)
    convention = "pictures with .txt captions beside them"
    if captioned < len(entries):
        convention = f"{captioned} of them with .txt captions beside them"
        convention = f"one kohya folder, '{words}' where a picture has no caption" if words else convention
    return Found(entries, convention, _left_out(source, pictures))


def _kohya(source: Path, train: Path) -> Found:
    """Folders ``10_sks dog`` in ``train``, and those in ``reg/`` as class pictures."""
    entries, names, remarks = _kohya_entries(source, train, "train")
    class_entries, class_names, class_remarks = _kohya_entries(source, source / KOHYA_CLASS, "class")
    if not entries:
        raise _no_pictures(source)
    if beside := _pictures(source):
        remarks.append(f"{_count(len(beside), 'picture')} beside the repeats_name folders left out")
    convention = f"kohya folders, repeats_name ({', '.join(names)})"
    if class_entries:
        found = _count(len(class_entries), "class picture")
        convention += f", and {found} in {KOHYA_CLASS}/ ({', '.join(class_names)})"
    return Found([*entries, *class_entries], convention, [*remarks, *class_remarks])


def _kohya_entries(source: Path, place: Path, role: Role) -> tuple[list[Entry], list[str], list[str]]:
    """(entries, folder names, remarks) of the ``repeats_name`` folders in ``place``."""
    entries, names, remarks = [], list[str](), list[str]()
    for folder, match in _kohya_folders(place):
        names.append(folder.name)
        pictures = _pictures(folder)
        repeats = int(match["repeats"])
        if not 0 < repeats <= MAX_REPEATS:
            remarks.append(
                f"{folder.name}/: left out, its {repeats} repeats are not between 1 and {MAX_REPEATS:,}"
            )
            continue
        for path in pictures:
            # kohya's own rule: a picture without a caption file is captioned by its folder's name.
            caption = read_sidecar(path) or _words(match)
            name = path.relative_to(source).as_posix()
            entries.append(Entry(name, path, caption, repeats, role, folder.name))
        remarks += _left_out(folder, pictures)
    return entries, names, remarks


def _kohya_folders(place: Path) -> list[tuple[Path, re.Match[str]]]:
    folders = _folders(place) if place.is_dir() else []
    return [(folder, match) for folder in folders if (match := KOHYA_FOLDER.fullmatch(folder.name))]


def _words(match: re.Match[str]) -> str:
    return one_line(match["words"].replace("_", " "))


def _metadata(source: Path, table: Path) -> Found:
    rows = _jsonl_rows(table) if table.suffix == ".jsonl" else _csv_rows(table)
    entries = []
    for number, row in rows:
        file_name = row.get("file_name")
        if not isinstance(file_name, str) or not file_name:
            raise DataError(
                f"{table}, row {number}: no 'file_name' (found {', '.join(map(str, row)) or 'nothing'})."
            )
        path = source / file_name
        if not path.resolve().is_relative_to(source.resolve()):
            raise DataError(
                f"{table}, row {number}: '{file_name}' is outside of the data folder. Move it inside."
            )
        text = next((row[column] for column in CAPTION_COLUMNS if isinstance(row.get(column), str)), "")
        entries.append(Entry(Path(file_name).as_posix(), path, one_line(text) or None))
    if not entries:
        raise DataError(f"{table}: no rows. Write one a picture, with 'file_name' and 'text'.")
    names = [entry.name for entry in entries]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{table}: '{twice}' has more than one row. Keep one.")
    unnamed = {path.name for path in _pictures(source)} - set(names)
    remarks = [f"{_count(len(unnamed), 'picture')} without a row in {table.name} left out"] if unnamed else []
    return Found(entries, f"{table.name} with file_name and text", remarks)


def _jsonl_rows(table: Path) -> list[tuple[int, dict[str, Any]]]:
    rows = []
    for number, line in enumerate(read_text(table, MAX_METADATA_BYTES).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise DataError(f"{table}, line {number}: not valid JSON ({error}).") from error
        if not isinstance(row, dict):
            raise DataError(f"{table}, line {number}: expected an object with 'file_name' and 'text'.")
        rows.append((number, row))
    return rows


def _csv_rows(table: Path) -> list[tuple[int, dict[str, Any]]]:
    try:
        reader = csv.DictReader(io.StringIO(read_text(table, MAX_METADATA_BYTES), newline=""), strict=True)
        return [(number, dict(row)) for number, row in enumerate(reader, start=2)]
    except csv.Error as error:
        raise DataError(f"{table}: not valid CSV ({error}).") from error


def _folders(source: Path) -> list[Path]:
    return sorted(path for path in source.iterdir() if path.is_dir() and not path.name.startswith("."))


def _pictures(folder: Path) -> list[Path]:
    """Pictures directly in ``folder``, by name; hidden files are none."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES
        and not path.name.startswith(".")
        and not is_mask(path)
        and path.is_file()
    )


def _left_out(folder: Path, pictures: list[Path]) -> list[str]:
    """Remarks on files that are neither pictures nor their captions."""
    captions = {path.with_suffix(suffix).name for path in pictures for suffix in (".txt", ".caption")}
    taken = captions | {path.name for path in pictures}
    others = [path for path in folder.iterdir() if path.is_file() and path.name not in taken]
    others = [path for path in others if not path.name.startswith(".") and not is_mask(path)]
    unread = sorted(path.name for path in others if path.suffix.lower() in OTHER_PICTURE_SUFFIXES)
    remarks = []
    if unread:
        remarks.append(f"{_names(unread)}: not PNG, JPEG or WEBP, left out")
    if len(others) > len(unread):
        remarks.append(f"{_count(len(others) - len(unread), 'other file')} in {folder.name}/ left out")
    return remarks


def _no_pictures(source: Path) -> DataError:
    found = [path for path in source.iterdir() if not path.name.startswith(".")]
    unread = sorted(path.name for path in found if path.suffix.lower() in OTHER_PICTURE_SUFFIXES)
    if unread:
        return DataError(
            f"{source}: no PNG, JPEG or WEBP pictures, but {_names(unread)}. Convert them to PNG."
        )
    below = [folder for folder in _folders(source) if _pictures(folder)]
    if below:
        return DataError(
            f"{source}: no pictures here, but in {_names([f.name + '/' for f in below])}. Name that folder."
        )
    what = _count(len(found), "entry", "entries") if found else "nothing"
    return DataError(f"{source}: no PNG, JPEG or WEBP pictures ({what} found). Name a folder of pictures.")


def _names(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
