"""Which pictures a folder holds, by the conventions that people use, and what each picture's caption is."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from detour.data.captions import one_line, read_sidecar
from detour.data.finding import MAX_NAMES, Finding, counted, some
from detour.data.listing import CAPTION_SUFFIXES, Listing, below
from detour.data.metadata import METADATA_NAMES, read_rows
from detour.data.pictures import OTHER_PICTURE_SUFFIXES, SUFFIXES
from detour.errors import DataError
from detour.files import printable
from detour.specs.data import Role

KOHYA_FOLDER = re.compile(r"(?P<repeats>\d+)_(?P<words>.+)")
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
        mask: the file that says which part of it counts, where there is one.
    """

    name: str
    source: Path | bytes
    caption: str | None
    repeats: int = 1
    role: Role = "train"
    group: str = ""
    words: str | None = None
    mask: Path | None = None


@dataclass(frozen=True)
class Found:
    """All entries of a data set, the convention in words, and what was left out."""

    entries: list[Entry]
    convention: str
    findings: list[Finding] = field(default_factory=list)


def find_entries(source: Path, *, recursive: bool = False) -> Found:
    """Recognise one picture, a ``metadata`` file, kohya's ``10_name`` folders or ``.txt`` sidecars.

    Args:
        source: a folder or one picture.
        recursive: read every folder below as well, each by its own convention.

    Raises:
        DataError: nothing there, no pictures, or a malformed metadata file; says what was found instead.
    """
    if source.is_file():
        return _one_picture(source)
    if not source.is_dir():
        raise DataError(f"{source}: no such folder of pictures. Name a folder, or hub:ID for a hub data set.")
    if recursive:
        return _all_folders(source)
    listing = Listing.of(source)
    if table := _table_of(listing):
        entries = _metadata_entries(source, listing, table)
        return Found(entries, f"{table.name} with file_name and text", _without_row(source, table, entries))
    for place in (listing, _folder_called(listing, KOHYA_TRAIN)):
        if place and any(folder.pictures for folder, _ in _kohya_folders(place)):
            return _kohya(source, listing, place)
    return _sidecars(source, listing)


def _one_picture(source: Path) -> Found:
    if source.suffix.lower() not in SUFFIXES:
        raise DataError(
            f"{source}: neither a folder nor a PNG, JPEG or WEBP picture. Name a folder of pictures."
        )
    return Found([_entry(source.parent, source, Listing.of(source.parent))], "one picture")


def _sidecars(source: Path, listing: Listing) -> Found:
    if not listing.pictures:
        raise _no_pictures(source, listing)
    named = KOHYA_FOLDER.fullmatch(source.resolve().name)
    words = _words(named) if named else None
    entries = [_entry(source, path, listing, words=words) for path in listing.pictures]
    captioned = sum(entry.caption is not None for entry in entries)
    convention = "pictures with .txt captions beside them"
    if captioned < len(entries):
        convention = f"{captioned} of them with .txt captions beside them"
        convention = f"one kohya folder, '{words}' where a picture has no caption" if words else convention
    return Found(entries, convention, [*_left_out(listing), *_not_read(source, entries)])


def _kohya(source: Path, top: Listing, train: Listing) -> Found:
    """Folders ``10_sks dog`` in ``train``, and those in ``reg/`` as class pictures."""
    entries, names, findings = _kohya_entries(source, train, "train")
    reg = _folder_called(top, KOHYA_CLASS)
    class_entries, class_names, class_findings = _kohya_entries(source, reg, "class") if reg else ([], [], [])
    if not entries:
        raise _no_pictures(source, top)
    convention = f"kohya folders, repeats_name ({', '.join(names)})"
    if class_entries:
        found = counted(len(class_entries), "class picture")
        convention += f", and {found} in {KOHYA_CLASS}/ ({', '.join(class_names)})"
    found_all = [*entries, *class_entries]
    return Found(found_all, convention, [*findings, *class_findings, *_not_read(source, found_all)])


def _kohya_entries(source: Path, place: Listing, role: Role) -> tuple[list[Entry], list[str], list[Finding]]:
    """(entries, folder names, findings) of the ``repeats_name`` folders in ``place``."""
    entries, names, findings = list[Entry](), list[str](), list[Finding]()
    for folder, match in _kohya_folders(place):
        names.append(folder.folder.name)
        found, own = _of_kohya_folder(source, folder, match, role)
        entries += found
        findings += own
    return entries, names, findings


def _of_kohya_folder(
    source: Path, folder: Listing, match: re.Match[str], role: Role
) -> tuple[list[Entry], list[Finding]]:
    repeats, group = int(match["repeats"]), match[0]
    if not 0 < repeats <= MAX_REPEATS:
        why = f"{group}/: left out, its {repeats} repeats are not between 1 and {MAX_REPEATS:,}"
        fix = f"give the folder another number, e.g. 1_{match['words']}"
        return [], [Finding(severity="warning", kind="not read", cause=printable(why), fix=printable(fix))]
    found = [
        _entry(source, path, folder, repeats=repeats, role=role, group=group) for path in folder.pictures
    ]
    # kohya's own rule: a picture without a caption file is captioned by its folder's name.
    entries = [replace(entry, caption=entry.caption or _words(match)) for entry in found]
    return entries, _left_out(folder)


def _all_folders(source: Path) -> Found:
    """Every folder below by its own convention: its metadata file, its kohya name or that of a folder around it."""
    entries, findings, used = list[Entry](), list[Finding](), 0
    for listing in below(source):
        inside = listing.folder.relative_to(source).parts
        matches = [match for name in reversed(inside) if (match := KOHYA_FOLDER.fullmatch(name))]
        role: Role = "class" if matches and inside[0] == KOHYA_CLASS else "train"
        if table := _table_of(listing):
            found, own = _metadata_entries(source, listing, table), list[Finding]()
        elif matches:
            found, own = _of_kohya_folder(source, listing, matches[0], role)
        else:
            found, own = [_entry(source, path, listing) for path in listing.pictures], _left_out(listing)
        known = {entry.name for entry in entries}
        entries += [entry for entry in found if entry.name not in known]
        findings += own if found or matches else []
        used += bool(found)
    if not entries:
        raise _no_pictures(source, Listing.of(source))
    return Found(entries, f"pictures in {counted(used, 'folder')}, each with its own captions", findings)


def _entry(
    source: Path,
    path: Path,
    listing: Listing,
    *,
    repeats: int = 1,
    role: Role = "train",
    group: str = "",
    words: str | None = None,
) -> Entry:
    name = path.relative_to(source).as_posix()
    caption, mask = read_sidecar(path, listing), listing.mask_of(path)
    return Entry(name, path, caption, repeats, role, group, words, mask)


def _folder_called(listing: Listing, name: str) -> Listing | None:
    found = next((folder for folder in listing.folders if folder.name == name), None)
    return Listing.of(found) if found else None


def _kohya_folders(place: Listing) -> list[tuple[Listing, re.Match[str]]]:
    return [
        (Listing.of(folder), match)
        for folder in place.folders
        if (match := KOHYA_FOLDER.fullmatch(folder.name))
    ]


def _words(match: re.Match[str]) -> str:
    return one_line(match["words"].replace("_", " "))


def _table_of(listing: Listing) -> Path | None:
    return next((path for name in METADATA_NAMES if (path := listing.find(name))), None)


def _metadata_entries(source: Path, listing: Listing, table: Path) -> list[Entry]:
    entries, listings = [], {listing.folder: listing}
    for file_name, caption in read_rows(table):
        path = listing.folder / file_name
        if path.parent not in listings and path.parent.is_dir():
            listings[path.parent] = Listing.of(path.parent)
        beside = listings.get(path.parent)
        mask = beside.mask_of(path) if beside else None
        entries.append(Entry(path.relative_to(source).as_posix(), path, caption, mask=mask))
    return entries


def _left_out(listing: Listing) -> list[Finding]:
    """Files of a folder that are neither pictures nor their captions or masks."""
    taken = {path.name for path in listing.pictures}
    taken |= {path.name for picture in listing.pictures for path in listing.captions_of(picture)}
    taken |= {mask.name for picture in listing.pictures if (mask := listing.mask_of(picture))}
    others = [path for path in listing.files if path.name not in taken and ".mask." not in path.name.lower()]
    unread = [path for path in others if path.suffix.lower() in OTHER_PICTURE_SUFFIXES]
    texts = [path for path in others if path.suffix.lower() in CAPTION_SUFFIXES]
    num_others = len(others) - len(unread) - len(texts)
    where = printable(listing.folder.name)
    findings = []
    if unread:
        cause = f"{_names(unread)}: not PNG, JPEG or WEBP, left out"
        findings.append(_about(unread, "warning", cause, "save them as PNG, if they are wanted"))
    if texts:
        cause = (
            f"{counted(len(texts), 'caption file')} in {where}/ without a picture left out ({_names(texts)})"
        )
        fix = "call a caption as its picture is called, e.g. 1.txt or 1.png.txt for 1.png"
        findings.append(_about(texts, "warning", cause, fix))
    if num_others:
        cause = f"{counted(num_others, 'other file')} in {where}/ left out"
        findings.append(
            Finding(severity="note", kind="left out", cause=cause, fix="nothing, if that was meant")
        )
    return findings


def _about(paths: Sequence[Path], severity: str, cause: str, fix: str) -> Finding:
    names = tuple(printable(path.name) for path in paths[:MAX_NAMES])
    return Finding.model_validate(
        {"severity": severity, "kind": "left out", "cause": cause, "fix": fix, "pictures": names}
    )


def _not_read(source: Path, entries: Iterable[Entry]) -> list[Finding]:
    """Pictures in and below the folder that are not among the entries."""
    counts = _others(source, entries)
    if not counts:
        return []
    where = [f"{count:,} in {_inside(source, folder)}" for folder, count in counts.items()]
    total = sum(counts.values())
    return [
        Finding(
            severity="warning",
            kind="not read",
            cause=f"{counted(total, 'picture')} {'is' if total == 1 else 'are'} not read: {some(where)}",
            fix="read every folder below with --recursive (data.recursive = true), or name one folder alone",
        )
    ]


def _without_row(source: Path, table: Path, entries: Iterable[Entry]) -> list[Finding]:
    total = sum(_others(source, entries).values())
    if not total:
        return []
    cause = f"{counted(total, 'picture')} without a row in {table.name} left out"
    return [
        Finding(severity="warning", kind="not read", cause=cause, fix="write a row for each that is wanted")
    ]


def _others(source: Path, entries: Iterable[Entry]) -> Counter[Path]:
    """Folder → how many of its pictures are not among the entries; each file once, whatever links lead to it."""
    taken = {entry.source for entry in entries if isinstance(entry.source, Path)}
    real = {os.path.realpath(path) for path in taken}
    counts: Counter[Path] = Counter()
    try:
        for listing in below(source):
            for path in listing.pictures:
                if path not in taken and os.path.realpath(path) not in real:
                    counts[listing.folder] += 1
    except DataError:
        pass  # a folder that cannot be listed, or a whole disk: what was seen so far is said
    return counts


def _inside(source: Path, folder: Path) -> str:
    return "the folder itself" if folder == source else printable(folder.relative_to(source).as_posix()) + "/"


def _no_pictures(source: Path, listing: Listing) -> DataError:
    unread = [path for path in listing.files if path.suffix.lower() in OTHER_PICTURE_SUFFIXES]
    if unread:
        return DataError(
            f"{source}: no PNG, JPEG or WEBP pictures, but {_names(unread)}. Convert them to PNG."
        )
    inside = [_inside(source, folder) for folder in _others(source, ())]
    if inside:
        return DataError(
            f"{source}: no pictures here, but in {some(inside)}. Name that folder, or pass --recursive."
        )
    num = len(listing.files) + len(listing.folders)
    what = counted(num, "entry", "entries") if num else "nothing"
    return DataError(f"{source}: no PNG, JPEG or WEBP pictures ({what} found). Name a folder of pictures.")


def _names(paths: Sequence[Path]) -> str:
    return some([printable(path.name) for path in paths])
