"""Copies a server's state folder, whether the server runs or not."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from detour.errors import ConfigError, StorageError
from detour.files import rename_durably

DATABASE = "jobs.sqlite"
NOT_COPIED = (f"{DATABASE}*", "lock", ".*", "*.tmp")
"""The database goes through SQLite, the lock belongs to a process, and temporaries are no results."""


@dataclass(frozen=True)
class Backup:
    """Count what a backup copied of a state folder.

    Attributes:
        folder: the copy; a server starts on it as on the original.
        jobs: in it.
        pictures: files of finished pictures in it.
        num_bytes: of all its files.
    """

    folder: Path
    jobs: int
    pictures: int
    num_bytes: int


def back_up(state: Path, out: Path) -> Backup:
    """Copy a state folder as it is at one moment; whole when this returns, and absent when it fails.

    The database is read through SQLite, because a plain copy of a file in WAL mode may lack what was written last, or
    be torn. Copies of adapters are taken before and after it: a job that is in the database finds its own.

    Args:
        state: of a server, running or stopped.
        out: a folder that is not there yet.

    Raises:
        ConfigError: there is no state, or ``out`` is there or lies in it.
        StorageError: something cannot be read or written, or the copy is damaged.
    """
    if not (state / DATABASE).is_file():
        raise ConfigError(f"{state}: has no {DATABASE}. Pass the folder that the server's --state names.")
    if out.resolve().is_relative_to(state.resolve()):
        raise ConfigError(
            f"{out}: is inside {state}, so the next backup would contain it. Choose another folder."
        )
    if out.exists():
        raise ConfigError(f"{out}: exists already. Choose a folder that does not.")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True, mode=0o700)
        _copy_files(state, partial, without=(*NOT_COPIED, "pictures"))
        jobs, tokens = _copy_database(state / DATABASE, partial / DATABASE)
        _copy_files(state, partial, without=(*NOT_COPIED, "pictures"))
        found = _copy_pictures(state / "pictures", partial / "pictures", tokens)
        num_bytes = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
        rename_durably(partial, out)
    except (OSError, sqlite3.Error, shutil.Error) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise StorageError(f"{state} could not be copied to {out}: {error}. Nothing was kept.") from error
    return Backup(out, jobs, found, num_bytes)


def _copy_database(source: Path, out: Path) -> tuple[int, list[str]]:
    """Copy it through SQLite and look through the copy; number of jobs, and names of the pictures that have files."""
    with (
        contextlib.closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as there,
        contextlib.closing(sqlite3.connect(out)) as here,
    ):
        there.backup(here)
        said = here.execute("PRAGMA integrity_check").fetchone()[0]
        if said != "ok":
            raise sqlite3.DatabaseError(f"the copy is damaged ({said})")
        jobs = here.execute("SELECT count(*) FROM jobs").fetchone()[0]
        rows = here.execute("SELECT token FROM pictures WHERE bytes>0").fetchall()
    return jobs, [row[0] for row in rows]


def _copy_files(source: Path, out: Path, *, without: tuple[str, ...]) -> None:
    """Copy all other files and folders; one that goes away meanwhile is left out."""

    def copied(there: str, here: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.copy2(there, here)

    ignore = shutil.ignore_patterns(*without)
    shutil.copytree(source, out, ignore=ignore, copy_function=copied, dirs_exist_ok=True)


def _copy_pictures(source: Path, out: Path, tokens: list[str]) -> int:
    """Copy the files that the copied database counts as results; one that is gone meanwhile was past its time."""
    out.mkdir()
    found = 0
    for token in tokens:
        with contextlib.suppress(FileNotFoundError):
            picture = source / f"{token}.png"
            shutil.copy2(picture, out)
            found += 1
            shutil.copy2(
                picture.with_suffix(".json"), out
            )  # its sidecar; pictures of earlier versions have none
    return found
