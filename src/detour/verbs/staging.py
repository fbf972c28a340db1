"""Outputs that stand in their place only when they are whole and proved."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detour.errors import ConfigError
from detour.files import storage_error, sync_folder, sync_tree


def refuse_taken(out: Path, *, force: bool) -> None:
    """Raise before any work is done when ``out`` is there and may not be overwritten.

    Raises:
        ConfigError: it is there.
    """
    if out.exists() and not force:
        raise ConfigError(f"{out}: is there already. Choose another --out, or pass --force.")


OTHER_FILES = (
    ".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".pdf", ".zip", ".txt", ".json", ".toml", ".md", ".html",
    ".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf",
)  # fmt: skip
"""Endings that nobody gives to a folder."""


def refuse_unwritable(out: Path, *, as_folder: bool) -> None:
    """Raise before any work is done where nothing could be written to ``out`` at its end.

    Args:
        out: the place of the output.
        as_folder: whether the output is a folder; its name must not be that of a file then.

    Raises:
        ConfigError: a file's name for a folder, or a file that stands in the way of a folder.
        StorageError: no permission.
    """
    if as_folder and out.suffix.lower() in OTHER_FILES:
        raise ConfigError(
            f"{out}: a folder is written here, and '{out.suffix}' is the ending of a file. Name a folder."
        )
    if as_folder and out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: is a file, and a folder is written. Choose another --out.")
    if not as_folder and out.is_dir():
        raise ConfigError(f"{out}: is a folder, and a file is written. Choose another --out.")
    above = next((place for place in out.absolute().parents if place.exists()), None)
    if above is not None and not above.is_dir():
        raise ConfigError(
            f"{out}: '{above}' is a file, so that nothing can be written in it. Choose another --out."
        )
    written = out if as_folder and out.is_dir() else above
    if written is not None and not os.access(written, os.W_OK | os.X_OK):
        raise storage_error(out, OSError(errno.EACCES, os.strerror(errno.EACCES)))


def refuse_no_png(place: Path) -> None:
    """Raise where a picture's name does not end in ``.png``.

    Raises:
        ConfigError: another ending, or a place that no file can stand in.
        StorageError: no permission.
    """
    if place.suffix != ".png":
        raise ConfigError(f"{place}: pictures are written as PNG. Let its name end in .png.")
    refuse_unwritable(place, as_folder=False)


@contextmanager
def staged(out: Path, *, force: bool) -> Iterator[Path]:
    """Inside, a free path of the same name in a hidden folder beside ``out``; at the end it becomes ``out``.

    What else was written beside that path moves along. When the block raises, nothing is left and what stood
    at ``out`` is as it was. A folder is replaced only by one that has every name it holds, so that
    ``--force`` never takes away what was not made here.

    Raises:
        ConfigError: ``out`` is there and ``force`` is not set, or it is a folder with other things in it.
        StorageError: disk full, no permission.
    """
    refuse_taken(out, force=force)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        hidden = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
        fresh, old = hidden / "fresh", hidden / "old"
        fresh.mkdir()
        old.mkdir()
    except OSError as error:
        raise storage_error(out, error) from error
    try:
        yield fresh / out.name
        beside = sorted(path for path in fresh.iterdir() if path.name != out.name)
        moves = [(place, out.parent / place.name) for place in (*beside, fresh / out.name)]
        for place, target in moves:
            _refuse_loss(place, target, force=force)
        sync_tree(fresh)  # what was copied into it is on the disk before it takes its name
        for place, target in moves:
            _move(place, target, old)
        sync_folder(out.parent)
    except OSError as error:
        raise storage_error(out, error) from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _refuse_loss(place: Path, target: Path, *, force: bool) -> None:
    refuse_taken(target, force=force)  # somebody else may have written meanwhile
    if target.is_dir() and not place.is_dir():
        raise ConfigError(f"{target}: is a folder, and a file is written. Choose another --out.")
    if place.is_dir() and target.exists() and not target.is_dir():
        raise ConfigError(f"{target}: is a file, and a folder is written. Choose another --out.")
    if target.is_dir():
        others = sorted({path.name for path in target.iterdir()} - {path.name for path in place.iterdir()})
        if others:
            raise ConfigError(
                f"{target}: holds '{others[0]}', which is not written here and would be lost. "
                "Choose another --out."
            )


def _move(place: Path, target: Path, old: Path) -> None:
    if not target.is_dir():
        place.replace(target)
        return
    target.rename(old / target.name)  # a folder cannot be replaced in one step
    try:
        place.replace(target)
    except OSError:
        (old / target.name).rename(target)
        raise
