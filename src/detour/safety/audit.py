"""A log of decisions whose entries are chained by hash, in a table of an SQLite file.

An entry is written in the transaction that carries out what it tells of: there is no decision without its entry, and no
entry of a decision that a crash undid. With ``synchronous=FULL`` SQLite waits for the disk at each commit.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detour.errors import ConfigError, LogBroken, StorageError

TABLE = """
CREATE TABLE audit (
  number INTEGER PRIMARY KEY, at REAL NOT NULL, body TEXT NOT NULL, previous TEXT NOT NULL, hash TEXT NOT NULL
) STRICT
"""
FIRST = "0" * 64
"""Stands for the entry before the first one."""
PRUNED = "pruned"
"""Kind of the entry that names the last one of those that were deleted because of their age."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry of the log.

    Attributes:
        number: place in the log, from 1.
        at: Unix time.
        body: canonical JSON of its facts; ``kind`` says what happened.
        previous: hex SHA-256 of the entry before it.
        hash: hex SHA-256 of this entry and ``previous``.
    """

    number: int
    at: float
    body: str
    previous: str
    hash: str

    @property
    def facts(self) -> dict[str, Any]:
        """What the entry tells, as one flat object."""
        return {**json.loads(self.body), "number": self.number, "at": self.at, "hash": self.hash}


def append_entry(db: sqlite3.Connection, at: float, kind: str, **facts: Any) -> str:
    """Append an entry within the transaction that is open.

    Args:
        db: connection with the table, in a transaction that holds the write lock.
        at: Unix time.
        kind: what happened, such as ``released``.
        facts: JSON values; ``number``, ``at`` and ``hash`` are taken by the entry itself.

    Returns:
        the hash of the new entry.
    """
    last = db.execute("SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1").fetchone()
    number, previous = (1, FIRST) if last is None else (last[0] + 1, last[1])
    body = json.dumps({"kind": kind, **facts}, sort_keys=True)
    made = chained(previous, number, at, body)
    db.execute("INSERT INTO audit VALUES (?, ?, ?, ?, ?)", (number, at, body, previous, made))
    return made


def prune_entries(db: sqlite3.Connection, at: float, *, before: float) -> int:
    """Delete the entries that are older than the policy keeps decisions, and say so in a new entry.

    The new entry names the last deleted one by number and hash: the rest of the chain is held against it.

    Args:
        db: connection in a transaction that holds the write lock.
        at: Unix time of now.
        before: Unix time; the entries from the first one on that are older go.

    Returns:
        how many entries were deleted.
    """
    last = db.execute(
        "SELECT number, hash FROM audit WHERE number < coalesce((SELECT min(number) FROM audit WHERE at > ?), 1 << 62)"
        " ORDER BY number DESC LIMIT 1",
        (before,),
    ).fetchone()
    if last is None:
        return 0
    append_entry(db, at, PRUNED, last_number=last[0], last_hash=last[1])
    return db.execute("DELETE FROM audit WHERE number <= ?", (last[0],)).rowcount


def check_entries(entries: Sequence[Entry], *, head: str | None = None, where: str = "the log") -> str:
    """Check that each entry follows from the one before it.

    Args:
        entries: all of the log, in order.
        head: hash of the entry that was the last one when it was written down elsewhere. Without it, entries cut off at
            the end cannot be noticed.
        where: name of the log in the message.

    Returns:
        the hash of the last entry, to be kept elsewhere.

    Raises:
        LogBroken: the first entry that does not follow from the one before it, or ``head`` is gone.
    """
    pruned = set(_pruned(entries))
    number, previous, seen = 0, FIRST, {FIRST, *(hash_ for _, hash_ in pruned)}
    if entries and (entries[0].number - 1, entries[0].previous) in pruned:
        number, previous = entries[0].number - 1, entries[0].previous
    for one in entries:
        number += 1
        if (one.number, one.previous, one.hash) != (
            number,
            previous,
            chained(previous, number, one.at, one.body),
        ):
            raise LogBroken(
                f"{where}: entry {number} was changed, removed or inserted: it does not follow from the one before it."
            )
        previous = one.hash
        seen.add(previous)
    if head is not None and head not in seen:
        raise LogBroken(
            f"{where}: the log does not hold the entry {head[:16]}…: entries at its end were removed, or that entry is "
            "older than the policy keeps decisions."
        )
    return previous


def _pruned(entries: Sequence[Entry]) -> Iterator[tuple[int, str]]:
    """(number, hash) of the last entries that were deleted because of their age."""
    for one in entries:
        with contextlib.suppress(ValueError, KeyError, TypeError):  # a body that was tampered with
            facts = json.loads(one.body)
            if facts["kind"] == PRUNED:
                yield int(facts["last_number"]), str(facts["last_hash"])


def read_entries(path: Path) -> list[Entry]:
    """Read the log of an SQLite file, also while a server writes it.

    Args:
        path: of the file.

    Raises:
        ConfigError: no such file, or it has no log.
        StorageError: it cannot be read.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file. Name the state folder of 'detour serve'.")
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            return list(entries_of(connection))
        finally:
            connection.close()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            raise ConfigError(
                f"{path}: has no log yet. Start 'detour serve' of this version once."
            ) from error
        raise StorageError(f"{path}: the log cannot be read ({error}).") from error
    except sqlite3.Error as error:
        raise StorageError(f"{path}: the log cannot be read ({error}).") from error


def entries_of(db: sqlite3.Connection) -> Iterator[Entry]:
    """Read all entries through an open connection, the oldest first."""
    for row in db.execute("SELECT number, at, body, previous, hash FROM audit ORDER BY number"):
        number, at, body, previous, hash_ = tuple(row)
        yield Entry(number=number, at=at, body=body, previous=previous, hash=hash_)


def chained(previous: str, number: int, at: float, body: str) -> str:
    """Hex SHA-256 of an entry and the hash of the one before it."""
    return hashlib.sha256(json.dumps([previous, number, repr(at), body]).encode()).hexdigest()
