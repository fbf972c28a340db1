"""Layer 7: pictures that wait for a person, and a log of what was decided that cannot be changed unseen."""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from detour.errors import ConfigError, DetourError, StorageError
from detour.safety.decision import Decision
from detour.safety.policy_file import RetentionSpec, ReviewSpec

State = Literal["held", "released", "refused", "expired"]
SCHEMA = 1
DAY_S = 86_400.0
FIRST = "0" * 64
"""What the first entry of the log is chained to."""
MAX_PERSON = 200
BUSY_S = 10.0

_TABLES = """
CREATE TABLE IF NOT EXISTS held (
  id TEXT PRIMARY KEY, owner TEXT NOT NULL, prompt TEXT NOT NULL, decision TEXT NOT NULL, picture BLOB,
  state TEXT NOT NULL, created REAL NOT NULL, expires REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS votes (
  id TEXT NOT NULL REFERENCES held, person TEXT NOT NULL, vote TEXT NOT NULL, at REAL NOT NULL,
  PRIMARY KEY (id, person)
);
CREATE TABLE IF NOT EXISTS log (
  number INTEGER PRIMARY KEY, at REAL NOT NULL, body TEXT NOT NULL, previous TEXT NOT NULL, hash TEXT NOT NULL
);
"""


class NotWaiting(DetourError):
    """No such picture, or it is decided already."""


class LogBroken(DetourError):
    """An entry of the log was changed, removed or put in."""


class HeldPicture(BaseModel):
    """A picture in the queue, without its pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    owner: str
    prompt: str
    """In full, or its SHA-256 where the policy keeps no prompts."""
    decision: Decision
    state: State
    created: float
    """Seconds since 1970."""
    expires: float
    released_by: tuple[str, ...] = ()


class ReviewQueue:
    """Held pictures in one SQLite file; every change is one transaction with its entry in the log.

    Several threads and processes of one machine may use the same file.
    """

    def __init__(
        self,
        path: Path,
        *,
        review: ReviewSpec,
        retention: RetentionSpec,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Open a queue, or make one.

        Args:
            path: of the file.
            review: who releases a picture.
            retention: how long it waits.
            now: seconds since 1970.

        Raises:
            StorageError: the file cannot be written, or is none of a queue.
        """
        self.path, self.review, self.retention, self._now = path, review, retention, now
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.touch(mode=0o600)
        with self._writing() as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, SCHEMA):
                raise StorageError(
                    f"{path}: a review queue of version {version}; this detour reads {SCHEMA}."
                )
            for statement in _TABLES.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {SCHEMA}")

    @contextlib.contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        try:
            connection = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None)
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA secure_delete = ON")
                connection.row_factory = sqlite3.Row
                yield connection
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise StorageError(f"{self.path}: the review queue cannot be used ({error}).") from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._connected() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def hold(self, picture: bytes, *, decision: Decision, prompt: str, owner: str) -> str:
        """Put a picture into the queue.

        Args:
            picture: the finished file.
            decision: with the action ``hold``.
            prompt: of its request.
            owner: who may fetch it after release.

        Returns:
            an id that cannot be guessed.

        Raises:
            ConfigError: another action: what is refused is not kept, and what is allowed needs no person.
        """
        if decision.action != "hold":
            raise ConfigError(f"a picture with the decision '{decision.action}' is not for the review queue.")
        name, at = secrets.token_urlsafe(24), self._now()
        kept = prompt
        if self.retention.prompts == "hash":
            kept = hashlib.sha256(prompt.encode()).hexdigest()
        expires = at + self.retention.held_pictures_days * DAY_S
        with self._writing() as connection:
            connection.execute(
                "INSERT INTO held VALUES (?, ?, ?, ?, ?, 'held', ?, ?)",
                (name, owner, kept, decision.model_dump_json(), picture, at, expires),
            )
            facts = {
                "policy": decision.policy,
                "code": decision.code,
                "sha256": hashlib.sha256(picture).hexdigest(),
            }
            self._log(connection, at, "held", id=name, **facts)
        return name

    def waiting(self) -> list[HeldPicture]:
        """The pictures that nobody has decided on, the oldest first; those whose time is over expire now."""
        self.expire()
        with self._connected() as connection:
            rows = connection.execute("SELECT * FROM held WHERE state = 'held' ORDER BY rowid").fetchall()
            return [self._told(connection, row) for row in rows]

    def look(self, name: str) -> bytes:
        """The file of a picture that waits, for the person who decides.

        Raises:
            NotWaiting: no such picture, or it is decided.
        """
        self.expire()
        with self._connected() as connection:
            row = self._waiting_row(connection, name)
            return bytes(row["picture"])

    def release(self, name: str, *, person: str) -> State:
        """Let the owner have a picture; with the two-person rule, when another person has said so too.

        Args:
            name: id of the picture.
            person: who decides, as the key or the log-in says.

        Returns:
            ``released``, or ``held`` while a second person is missing.

        Raises:
            NotWaiting: no such picture, or it is decided.
            ConfigError: no name; the same person for the second time.
        """
        return self._decide(name, person, "release")

    def refuse(self, name: str, *, person: str) -> State:
        """Keep a picture from its owner and delete it; one person is enough.

        Raises:
            NotWaiting: no such picture, or it is decided.
            ConfigError: no name.
        """
        return self._decide(name, person, "refuse")

    def _decide(self, name: str, person: str, vote: Literal["release", "refuse"]) -> State:
        person = " ".join(person.split())[:MAX_PERSON]
        if not person:
            raise ConfigError("a decision needs the name of the person who makes it.")
        self.expire()
        at = self._now()
        with self._writing() as connection:
            self._waiting_row(connection, name)
            before = connection.execute("SELECT person, vote FROM votes WHERE id = ?", (name,)).fetchall()
            if vote == "release" and any(row["person"].casefold() == person.casefold() for row in before):
                raise ConfigError(
                    f"{person} has released this picture already; the policy asks for a second person."
                )
            connection.execute("INSERT OR REPLACE INTO votes VALUES (?, ?, ?, ?)", (name, person, vote, at))
            needed = 2 if self.review.two_persons else 1
            state: State = "refused" if vote == "refuse" else "held"
            if vote == "release" and len(before) + 1 >= needed:
                state = "released"
            if state == "refused":
                connection.execute("UPDATE held SET state = 'refused', picture = NULL WHERE id = ?", (name,))
            elif state == "released":
                connection.execute("UPDATE held SET state = 'released' WHERE id = ?", (name,))
            self._log(connection, at, vote, id=name, person=person, state=state)
        if state == "refused":
            self._forget()
        return state

    def fetch(self, name: str, *, owner: str) -> tuple[State, bytes | None]:
        """What the owner gets: the state, and the picture once it is released and until it expires.

        Raises:
            NotWaiting: no such picture of this owner; whether somebody else has it is not told.
        """
        self.expire()
        with self._connected() as connection:
            row = connection.execute(
                "SELECT * FROM held WHERE id = ? AND owner = ?", (name, owner)
            ).fetchone()
            if row is None:
                raise NotWaiting(f"no picture '{name[:60]}'.")
            state: State = row["state"]
            kept = state == "released" and row["picture"] is not None
            return state, bytes(row["picture"]) if kept else None

    def expire(self) -> int:
        """Delete the pictures whose time is over, and rows older than the policy keeps decisions.

        Returns:
            how many pictures were deleted.
        """
        at = self._now()
        over = at - self.retention.decisions_days * DAY_S
        with self._connected() as connection:
            due = connection.execute(
                "SELECT 1 FROM held WHERE (expires <= ? AND picture IS NOT NULL) OR (created <= ? AND expires <= ?)"
                " LIMIT 1",
                (at, over, at),
            ).fetchone()
        if due is None:
            return 0
        with self._writing() as connection:
            rows = connection.execute(
                "SELECT id, state FROM held WHERE expires <= ? AND picture IS NOT NULL", (at,)
            ).fetchall()
            for row in rows:
                state = "expired" if row["state"] == "held" else row["state"]
                connection.execute(
                    "UPDATE held SET state = ?, picture = NULL WHERE id = ?", (state, row["id"])
                )
                self._log(connection, at, "expired", id=row["id"], state=state)
            old = "SELECT id FROM held WHERE created <= ? AND expires <= ?"
            connection.execute(f"DELETE FROM votes WHERE id IN ({old})", (over, at))
            connection.execute("DELETE FROM held WHERE created <= ? AND expires <= ?", (over, at))
        self._forget()
        return len(rows)

    def _forget(self) -> None:
        """Empty the write-ahead log, where the pages of a deleted picture still stand."""
        with self._connected() as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def log(self) -> list[dict[str, Any]]:
        """All entries of the log, the oldest first."""
        with self._connected() as connection:
            return [
                {"number": row["number"], "at": row["at"], **json.loads(row["body"]), "hash": row["hash"]}
                for row in connection.execute("SELECT * FROM log ORDER BY number")
            ]

    def check_log(self, *, head: str | None = None) -> str:
        """Read the whole log and check that each entry has the hash of the one before.

        Args:
            head: hash that was the last one when it was written down elsewhere. Without it, entries cut off at the end
                cannot be noticed.

        Returns:
            the hash of the last entry, to be kept elsewhere.

        Raises:
            LogBroken: names the first entry that does not follow from the one before it, or says that ``head`` is gone.
        """
        previous, seen = FIRST, {FIRST}
        with self._connected() as connection:
            rows = connection.execute("SELECT * FROM log ORDER BY number").fetchall()
        for place, row in enumerate(rows, start=1):
            expected = _chained(previous, row["number"], row["at"], row["body"])
            if (row["number"], row["previous"], row["hash"]) != (place, previous, expected):
                raise LogBroken(
                    f"{self.path}: entry {place} of the log does not follow from the one before it."
                )
            previous = row["hash"]
            seen.add(previous)
        if head is not None and head not in seen:
            raise LogBroken(
                f"{self.path}: the log does not hold the entry {head[:16]}…: its end was cut off."
            )
        return previous

    def _log(self, connection: sqlite3.Connection, at: float, kind: str, **facts: str) -> None:
        row = connection.execute("SELECT number, hash FROM log ORDER BY number DESC LIMIT 1").fetchone()
        number, previous = (1, FIRST) if row is None else (row["number"] + 1, row["hash"])
        body = json.dumps({"kind": kind, **facts}, sort_keys=True)
        connection.execute(
            "INSERT INTO log VALUES (?, ?, ?, ?, ?)",
            (number, at, body, previous, _chained(previous, number, at, body)),
        )

    def _waiting_row(self, connection: sqlite3.Connection, name: str) -> sqlite3.Row:
        row: sqlite3.Row | None = connection.execute("SELECT * FROM held WHERE id = ?", (name,)).fetchone()
        if row is None:
            raise NotWaiting(f"no picture '{name[:60]}' waits.")
        if row["state"] != "held":
            raise NotWaiting(f"picture '{name[:60]}' is {row['state']} already.")
        return row

    def _told(self, connection: sqlite3.Connection, row: sqlite3.Row) -> HeldPicture:
        votes = connection.execute("SELECT person FROM votes WHERE id = ? AND vote = 'release'", (row["id"],))
        return HeldPicture(
            id=row["id"],
            owner=row["owner"],
            prompt=row["prompt"],
            decision=Decision.model_validate_json(row["decision"]),
            state=row["state"],
            created=row["created"],
            expires=row["expires"],
            released_by=tuple(vote["person"] for vote in votes),
        )


def _chained(previous: str, number: int, at: float, body: str) -> str:
    """Hex SHA-256 of an entry and the hash of the one before it."""
    return hashlib.sha256(json.dumps([previous, number, repr(at), body]).encode()).hexdigest()
