"""The files of folders of pictures: which are pictures, and which caption and mask belong to each."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from detour.data.pictures import SUFFIXES
from detour.errors import DataError

CAPTION_SUFFIXES = (".txt", ".caption")
MASK_FOLDER = "mask"
MASK_ENDING = ".mask"
MAX_FOLDERS = 10_000
"""Folders below a data set that are looked at: a whole disk is no data set."""


@dataclass(frozen=True)
class Listing:
    """What stands in one folder, read once.

    Names are compared as Windows and macOS compare them: ``0.TXT`` is the caption of ``0.png``.

    Attributes:
        folder: that was listed.
        files: by name, hidden ones left out.
        folders: directly inside, by name, hidden ones left out.
    """

    folder: Path
    files: tuple[Path, ...]
    folders: tuple[Path, ...]

    @classmethod
    def of(cls, folder: Path) -> "Listing":
        """List a folder.

        Raises:
            DataError: it cannot be read.
        """
        try:
            paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        except OSError as error:
            raise DataError(f"{folder}: cannot be read ({error.strerror}).") from error
        return cls(
            folder,
            tuple(path for path in paths if path.is_file()),
            tuple(path for path in paths if path.is_dir()),
        )

    @cached_property
    def pictures(self) -> tuple[Path, ...]:
        """Pictures directly inside, by name; masks of others are none."""
        return tuple(
            path for path in self.files if path.suffix.lower() in SUFFIXES and not self._is_mask(path)
        )

    def _is_mask(self, path: Path) -> bool:
        return path.stem.lower().endswith(MASK_ENDING)

    @cached_property
    def masks(self) -> "Listing | None":
        """The folder ``mask`` inside, if there is one."""
        found = next((folder for folder in self.folders if folder.name.lower() == MASK_FOLDER), None)
        return Listing.of(found) if found else None

    @cached_property
    def _names(self) -> dict[str, list[Path]]:
        names: dict[str, list[Path]] = {}
        for path in self.files:
            names.setdefault(path.name.lower(), []).append(path)
        return names

    def find(self, name: str) -> Path | None:
        """The file of this name; one that differs in upper and lower case alone where there is none."""
        found = self._names.get(name.lower(), [])
        return next((path for path in found if path.name == name), found[0] if found else None)

    def captions_of(self, picture: Path) -> list[Path]:
        """Files that may hold the caption of ``0.png``: ``0.txt``, ``0.caption``, ``0.png.txt``, ``0.png.caption``."""
        names = [f"{stem}{suffix}" for stem in (picture.stem, picture.name) for suffix in CAPTION_SUFFIXES]
        return [path for name in names if (path := self.find(name)) is not None]

    def mask_of(self, picture: Path) -> Path | None:
        """``NAME.mask.png`` beside the picture, or ``mask/NAME.png``; ``None`` when there is neither."""
        beside = (self.find(f"{picture.stem}{MASK_ENDING}{suffix}") for suffix in SUFFIXES)
        inside = (self.masks.find(f"{picture.stem}{suffix}") if self.masks else None for suffix in SUFFIXES)
        return next((path for path in (*beside, *inside) if path is not None), None)


def below(source: Path) -> Iterator[Listing]:
    """The folder and all folders below it, each once where links lead in circles; folders of masks are left out.

    Raises:
        DataError: there are more than :data:`MAX_FOLDERS`, or one cannot be read.
    """
    waiting, seen = [source], set[str]()
    while waiting:
        folder = waiting.pop(0)
        place = os.path.realpath(folder)
        if place in seen:
            continue
        seen.add(place)
        if len(seen) > MAX_FOLDERS:
            raise DataError(
                f"{source}: more than {MAX_FOLDERS:,} folders below it. Name the one that holds the pictures."
            )
        listing = Listing.of(folder)
        yield listing
        waiting += [inner for inner in listing.folders if not _holds_masks(inner, listing.pictures)]


def _holds_masks(folder: Path, pictures: Sequence[Path]) -> bool:
    """Whether a folder called ``mask`` has files for the pictures beside it."""
    if folder.name.lower() != MASK_FOLDER:
        return False
    stems = {picture.stem.lower() for picture in pictures}
    return any(path.stem.lower() in stems for path in folder.iterdir())
