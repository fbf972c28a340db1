"""The part of the job store that holds pictures for a person, with votes, expiry and the log of decisions."""

from __future__ import annotations

import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from detour.errors import DetourError
from detour.safety.audit import append_entry
from detour.serving.database import JobDatabase
from detour.serving.jobs import Job, PictureRow

Outcome = Literal["done", "refused", "held"]


class VotedAlready(DetourError):
    """The same key releases a picture for the second time; the policy asks for another person."""


class HeldPictures(JobDatabase, ABC):
    """The part of the job store that holds pictures for a person.

    Every decision is one transaction with its entry in the log. Of two that come at once the first one counts.
    """

    @abstractmethod
    def _settle(self, db: sqlite3.Connection, job: str, now: float) -> None: ...
    @abstractmethod
    def job(self, id_: str, *, key: str | None = None) -> Job | None:
        """Read a job; ``None``: there is none."""

    @abstractmethod
    def delete_files(self, token: str) -> None:
        """Delete the file of a picture and its sidecar."""

    @abstractmethod
    def path_of(self, token: str) -> Path:
        """Path of the file of a picture, whether it is there or not."""

    def held(self, *, limit: int) -> list[tuple[Job, PictureRow, tuple[str, ...]]]:
        """List held pictures of every key, the oldest job first.

        Args:
            limit: most that are listed.

        Returns:
            the job, the picture, and the ids of the keys that have released it already.
        """
        rows = self._rows(
            "SELECT pictures.job AS job, number FROM pictures JOIN jobs ON jobs.id = pictures.job WHERE "
            "pictures.state='held' AND expires>? ORDER BY jobs.created, pictures.job, number LIMIT ?",
            (time.time(), limit),
        )
        jobs = {row["job"]: self.job(row["job"]) for row in rows}
        found = []
        for row in rows:
            job = jobs[row["job"]]
            held = [] if job is None else [one for one in job.pictures if one.index == row["number"]]
            found += [(job, one, self._voters(job.id, one.index)) for one in held if job is not None]
        return found

    def _voters(self, job: str, number: int) -> tuple[str, ...]:
        rows = self._rows("SELECT key FROM votes WHERE job=? AND number=? ORDER BY at", (job, number))
        return tuple(row["key"] for row in rows)

    def held_path(self, job: str, number: int) -> Path | None:
        """Path of the file of a held picture, for the person who decides."""
        rows = self._rows(
            "SELECT token FROM pictures WHERE job=? AND number=? AND state='held' AND expires>?",
            (job, number, time.time()),
        )
        return self.path_of(rows[0]["token"]) if rows else None

    def decide(
        self,
        job: str,
        number: int,
        *,
        release: bool,
        key: str,
        name: str,
        cause: str,
        keep_s: float,
        two_persons: bool = False,
    ) -> Outcome | None:
        """Release or refuse a held picture; a refused one is deleted.

        Args:
            job: id of the job.
            number: of the picture in it.
            release: let its client have it; one refusal ends it, whoever has released it before.
            key: id of the key that decides.
            name: of that key, for the log.
            cause: shown to the client of a refused picture.
            keep_s: seconds for which the result can be fetched.
            two_persons: another key must have released it before.

        Returns:
            its state now: ``held`` while a second key is missing; ``None``: it was not held.

        Raises:
            VotedAlready: the same key has released it before.
            StorageError: nothing was changed.
        """
        now = time.time()
        with self._writing() as db:
            row = db.execute(
                "SELECT token FROM pictures WHERE job=? AND number=? AND state='held' AND expires>?",
                (job, number, now),
            ).fetchone()
            if row is None:
                return None
            state = self._outcome(db, (job, number), release=release, key=key, now=now, two=two_persons)
            if state != "held":
                db.execute(
                    "UPDATE pictures SET state=?, cause=?, code=?, expires=?, bytes=CASE ? WHEN 'done' THEN bytes "
                    "ELSE 0 END WHERE job=? AND number=?",
                    (state, cause, None if release else "review", now + keep_s, state, job, number),
                )
                db.execute("DELETE FROM votes WHERE job=? AND number=?", (job, number))
                self._settle(db, job, now)
                db.execute("UPDATE jobs SET finished=? WHERE id=? AND finished IS NOT NULL", (now, job))
            kind = "release" if release else "refuse"
            append_entry(db, now, kind, job=job, picture=number, key=key, name=name, cause=cause, state=state)
        if state == "refused":
            self.delete_files(row["token"])
        return state

    def _outcome(
        self,
        db: sqlite3.Connection,
        picture: tuple[str, int],
        *,
        release: bool,
        key: str,
        now: float,
        two: bool,
    ) -> Outcome:
        if not release:
            return "refused"
        if not two:
            return "done"
        voters = [
            row["key"]
            for row in db.execute("SELECT key FROM votes WHERE job=? AND number=?", picture).fetchall()
        ]
        if key in voters:
            raise VotedAlready(
                "this key has released the picture already; the policy asks for a second person."
            )
        db.execute("INSERT INTO votes VALUES (?,?,?,?)", (*picture, key, now))
        return "done" if voters else "held"

    def note(self, kind: str, **facts: Any) -> None:
        """Append an entry to the log; it is on the disk when this returns.

        Args:
            kind: what happened.
            facts: JSON values.

        Raises:
            StorageError: it could not be written.
        """
        with self._writing() as db:
            append_entry(db, time.time(), kind, **facts)

    def _expire(self, db: sqlite3.Connection, tokens: Sequence[str], now: float) -> None:
        """Refuse the held pictures among these because nobody decided in time."""
        for token in tokens:
            rows: list[Mapping[str, Any]] = db.execute(
                "UPDATE pictures SET state='refused', code='review', cause='nobody decided in time' "
                "WHERE token=? AND state='held' RETURNING job, number",
                (token,),
            ).fetchall()
            for row in rows:
                append_entry(db, now, "expired", job=row["job"], picture=row["number"], state="refused")
                self._settle(db, row["job"], now)
