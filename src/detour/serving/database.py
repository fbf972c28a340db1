"""The database under the job store: one SQLite file beside a folder of pictures, locked for one server."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from detour.errors import RunError, StorageError
from detour.files import lock_now
from detour.safety.audit import TABLE

SCHEMA_VERSION = 2
BUSY_MS = 5000

SCHEMA = """
CREATE TABLE jobs (
  id TEXT PRIMARY KEY, key TEXT NOT NULL, state TEXT NOT NULL, request TEXT NOT NULL, created REAL NOT NULL,
  deadline REAL, finished REAL, attached INTEGER NOT NULL, policy TEXT NOT NULL, revised TEXT, hold TEXT,
  idempotency TEXT, body_sha256 TEXT, UNIQUE (key, idempotency)
) STRICT;
CREATE INDEX jobs_by_state ON jobs (state, created);
CREATE TABLE pictures (
  job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE, number INTEGER NOT NULL, state TEXT NOT NULL,
  token TEXT NOT NULL UNIQUE, expires REAL, cause TEXT, code TEXT, begun INTEGER NOT NULL DEFAULT 0,
  deaths INTEGER NOT NULL DEFAULT 0, deaths_alone INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (job, number)
) STRICT;
CREATE TABLE drawn (key TEXT NOT NULL, day TEXT NOT NULL, pictures INTEGER NOT NULL, PRIMARY KEY (key, day)) STRICT;
"""
VOTES = """
CREATE TABLE votes (
  job TEXT NOT NULL, number INTEGER NOT NULL, key TEXT NOT NULL, at REAL NOT NULL, PRIMARY KEY (job, number, key),
  FOREIGN KEY (job, number) REFERENCES pictures (job, number) ON DELETE CASCADE
) STRICT
"""
"""SQL of the table of keys that have released a picture which needs a second release."""

ADDED: dict[int, tuple[str, ...]] = {
    2: (
        VOTES,
        TABLE,
        "ALTER TABLE pictures ADD COLUMN hold TEXT",
        "UPDATE pictures SET hold=(SELECT hold FROM jobs WHERE id=job)",
    )
}
"""SQL statements by the version of the format that they lead to; an older state is migrated at its first start."""


class JobDatabase:
    """The open database of one server; any thread may use it, and one of them writes at a time."""

    def __init__(self, folder: Path) -> None:
        """Open or make the store, and lock it for this process.

        Raises:
            RunError: another server has it, or a newer version wrote it.
            StorageError: the folder cannot be written.
        """
        self.folder, self.pictures = folder, folder / "pictures"
        try:
            self.pictures.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
            self._lock_file = (folder / "lock").open("a")
        except OSError as error:
            raise StorageError(
                f"{folder}: cannot be written ({error.strerror}). Choose another --state."
            ) from error
        if not lock_now(self._lock_file.fileno()):
            self._lock_file.close()
            raise RunError(f"{folder}: another server uses it. Stop it, or choose another --state.")
        self._lock = threading.RLock()
        try:
            self._db = sqlite3.connect(folder / "jobs.sqlite", check_same_thread=False, isolation_level=None)
            self._prepare()
        except sqlite3.Error as error:
            self._lock_file.close()
            raise StorageError(
                f"{folder / 'jobs.sqlite'}: {error}. Restore it, or choose another --state."
            ) from error

    def _prepare(self) -> None:
        for line in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={BUSY_MS}"):
            self._db.execute(f"PRAGMA {line}")
        self._db.row_factory = sqlite3.Row
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if not 0 <= version <= SCHEMA_VERSION:
            raise RunError(
                f"{self.folder}: written by another version of detour (format {version}, this one reads "
                f"{SCHEMA_VERSION}). Choose another --state."
            )
        if version < SCHEMA_VERSION:
            with self._writing() as db:
                for statement in SCHEMA.split(";") if version == 0 else ():
                    db.execute(statement)
                for added in (one for number, one in ADDED.items() if number > version):
                    for statement in added:
                        db.execute(statement)
                db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    def close(self) -> None:
        """Close the database and release the lock."""
        with self._lock:
            self._db.close()
            self._lock_file.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction; it is on the disk when the block has ended.

        Raises:
            StorageError: disk full, locked, or damaged; nothing of the block is kept.
        """
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except BaseException as error:
                if self._db.in_transaction:
                    with contextlib.suppress(sqlite3.Error):
                        self._db.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error) and not isinstance(error, sqlite3.IntegrityError):
                    raise StorageError(
                        f"{self.folder / 'jobs.sqlite'}: {error}; nothing was changed."
                    ) from error
                raise

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        with self._lock:
            try:
                return self._db.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise StorageError(f"{self.folder / 'jobs.sqlite'}: {error}.") from error
