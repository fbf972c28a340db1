"""Outputs that stand in their place only when they are whole and proved."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detour.errors import ConfigError
from detour.files import storage_error


def refuse_taken(out: Path, *, force: bool) -> None:
    """Raise before any work is done when ``out`` is there and may not be written over.

    Raises:
        ConfigError: it is there.
    """
    if out.exists() and not force:
        raise ConfigError(f"{out}: is there already. Choose another --out, or pass --force.")


@contextmanager
def staged(out: Path, *, force: bool) -> Iterator[Path]:
    """Inside, a free path of the same name in a hidden folder beside ``out``; at the end it becomes ``out``.

    When the block raises, nothing is left and what stood at ``out`` is as it was. A folder is replaced only
    by one that has every name it holds, so that ``--force`` never takes away what was not made here.

    Raises:
        ConfigError: ``out`` is there and ``force`` is not set, or it is a folder with other things in it.
        StorageError: disk full, no permission.
    """
    refuse_taken(out, force=force)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        hidden = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
    except OSError as error:
        raise storage_error(out, error) from error
    try:
        place = hidden / out.name
        yield place
        refuse_taken(out, force=force)  # somebody else may have written meanwhile
        _move(place, out, hidden)
    except OSError as error:
        raise storage_error(out, error) from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _move(place: Path, out: Path, hidden: Path) -> None:
    if out.is_dir() and not out.is_symlink():
        if not place.is_dir():
            raise ConfigError(f"{out}: is a folder, and a file is written. Choose another --out.")
        others = sorted({path.name for path in out.iterdir()} - {path.name for path in place.iterdir()})
        if others:
            raise ConfigError(
                f"{out}: holds '{others[0]}', which is not written here and would be lost. "
                "Choose another --out."
            )
        out.rename(hidden / "replaced")
        try:
            place.replace(out)
        except OSError:
            (hidden / "replaced").rename(out)
            raise
        return
    if place.is_dir() and out.exists():
        raise ConfigError(f"{out}: is a file, and a folder is written. Choose another --out.")
    place.replace(out)
