"""The job store on disk: accepted jobs survive a kill at any moment, and each picture has one result."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detour.errors import DetourError
from detour.files import remove_temporaries
from detour.generation.sidecar import sidecar_of
from detour.safety.audit import append_entry, prune_entries
from detour.serving.held import HeldPictures
from detour.serving.jobs import Job, JobRequest, PictureRow, PictureStateName, new_token, state_of
from detour.serving.policy import Refused

ASIDE_DEATHS = 2
"""Number of server deaths during a picture that was drawn alone after which it is set aside: drawn when nothing else
waits."""
FATAL_DEATHS = 5
"""Number of server deaths after which a picture fails; a few kills from outside may hit one by chance."""


class BodyDiffers(DetourError):
    """An Idempotency-Key was used again with another body."""


class QuotaSpent(DetourError):
    """The key has used its quota of pictures for today."""


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """Facts of a job that is to be accepted.

    Attributes:
        key: id of the key whose job it is.
        request: what is drawn.
        deadline: Unix time, or none.
        attached: whether it ends with its connection.
        policy: version of the policy.
        revised: what the policy changed, or none.
        refused: number of each picture that the policy does not let be drawn → its answer.
        holds: number of each picture that a person must look at → why.
        idempotency: the client's own key for the request, or none.
        body_sha256: of what the client sent under it.
        per_day: pictures that the key may have in a day, or none.
    """

    key: str
    request: JobRequest
    deadline: float | None = None
    attached: bool = False
    policy: str = "none"
    revised: str | None = None
    refused: Mapping[int, Refused] = field(default_factory=dict)
    holds: Mapping[int, str] = field(default_factory=dict)
    idempotency: str | None = None
    body_sha256: str = ""
    per_day: int | None = None


class JobStore(HeldPictures):
    """One SQLite file and one folder of pictures; safe to call from any thread, one writer at a time.

    A picture counts as finished when its row says so; its file was written and synced before. A file without such a
    row is swept at the next start, and the picture is drawn again.
    """

    # ---- accepting ----

    def accept(self, new: NewJob) -> tuple[Job, bool]:
        """Write a job; it is durable when this returns.

        Returns:
            the job, and whether it is new: an Idempotency-Key that comes again gets the job that it got first.

        Raises:
            BodyDiffers: the Idempotency-Key was used with another body.
            QuotaSpent: the key has had its pictures of this day.
            StorageError: it could not be written, and is not accepted.
        """
        now, id_ = time.time(), new_token()
        with self._writing() as db:
            earlier = self._earlier(db, new)
            if earlier is not None:
                return earlier, False
            self._spend(db, new, now)
            db.execute(
                "INSERT INTO jobs VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
                (
                    *(id_, new.key, "queued", new.request.model_dump_json(), now, new.deadline, None),
                    *(int(new.attached), new.policy, new.revised, None, new.idempotency, new.body_sha256),
                ),
            )
            db.executemany(
                "INSERT INTO pictures (job, number, state, token, hold) VALUES (?,?,'queued',?,?)",
                [
                    (id_, number, new_token(), new.holds.get(number))
                    for number in range(len(new.request.prompts))
                ],
            )
            db.executemany(
                "UPDATE pictures SET state='refused', code=?, cause=? WHERE job=? AND number=?",
                [(refusal.code, refusal.cause, id_, number) for number, refusal in new.refused.items()],
            )
            self._settle(db, id_, now)
        made = self.job(id_)
        assert made is not None
        return made, True

    def repeated(self, key: str, idempotency: str, body_sha256: str) -> Job | None:
        """The job that an Idempotency-Key got first, or ``None``.

        Raises:
            BodyDiffers: it was used with another body.
        """
        rows = self._rows(
            "SELECT id, body_sha256 FROM jobs WHERE key=? AND idempotency=?", (key, idempotency)
        )
        if not rows:
            return None
        if rows[0]["body_sha256"] != body_sha256:
            raise BodyDiffers(
                "this Idempotency-Key was used with another body. Use a new one for a new request."
            )
        return self.job(rows[0]["id"])

    def _earlier(self, _: sqlite3.Connection, new: NewJob) -> Job | None:
        return None if new.idempotency is None else self.repeated(new.key, new.idempotency, new.body_sha256)

    def _spend(self, db: sqlite3.Connection, new: NewJob, now: float) -> None:
        day, num = time.strftime("%Y-%m-%d", time.gmtime(now)), len(new.request.prompts)
        row = db.execute("SELECT pictures FROM drawn WHERE key=? AND day=?", (new.key, day)).fetchone()
        had = 0 if row is None else row["pictures"]
        if new.per_day is not None and had + num > new.per_day:
            raise QuotaSpent(
                f"this key may have {new.per_day} pictures a day and has had {had}; the day ends at 00:00 UTC."
            )
        db.execute(
            "INSERT INTO drawn VALUES (?,?,?) ON CONFLICT (key, day) DO UPDATE SET pictures=pictures+excluded.pictures",
            (new.key, day, num),
        )

    # ---- drawing ----

    def recover(self) -> list[Job]:
        """Clean up after a kill, and return the jobs that are still to be drawn, oldest first.

        Pictures that were being drawn when the server died are queued again, and the death is counted. What belongs
        to a connection ended with it.
        """
        remove_temporaries(self.pictures)
        now = time.time()
        with self._writing() as db:
            alone = db.execute("SELECT count(*) FROM pictures WHERE begun=1").fetchone()[0] == 1
            db.execute(
                "UPDATE pictures SET deaths=deaths+1, deaths_alone=deaths_alone+?, begun=0, state='queued' "
                "WHERE begun=1",
                (int(alone),),
            )
            db.execute(
                "UPDATE pictures SET code='poisoned', state=CASE WHEN deaths_alone>=? THEN 'failed' ELSE state END, "
                "cause='the server died ' || deaths_alone || ' times while this picture alone was being drawn' "
                "WHERE state IN ('queued','drawing') AND deaths_alone>=?",
                (FATAL_DEATHS, ASIDE_DEATHS),
            )
            db.execute(
                "UPDATE pictures SET state='cancelled', cause='the connection that asked for it is gone' "
                "WHERE state IN ('queued','drawing') AND job IN (SELECT id FROM jobs WHERE attached=1)"
            )
            for row in db.execute("SELECT id FROM jobs WHERE state IN ('queued','drawing')").fetchall():
                self._settle(db, row["id"], now)
        self._sweep_files()
        return self.open_jobs()

    def open_jobs(self) -> list[Job]:
        """Jobs that are not finished, oldest first."""
        ids = self._rows("SELECT id FROM jobs WHERE state IN ('queued','drawing') ORDER BY created, rowid")
        return [job for row in ids if (job := self.job(row["id"])) is not None]

    def begin(self, pictures: Sequence[tuple[str, int]]) -> None:
        """Record that pictures are being drawn, so that a death during them is counted."""
        with self._writing() as db:
            db.executemany(
                "UPDATE pictures SET state='drawing', begun=1 WHERE job=? AND number=? AND state='queued'",
                pictures,
            )
            for id_ in {id_ for id_, _ in pictures}:
                self._settle(db, id_, time.time())

    def put_back(self, pictures: Sequence[tuple[str, int]]) -> None:
        """Record that pictures are not being drawn any more and wait again: a stop in good order is no death."""
        with self._writing() as db:
            db.executemany(
                "UPDATE pictures SET state='queued', begun=0 WHERE job=? AND number=? AND state='drawing'",
                pictures,
            )

    def finish(
        self,
        job: str,
        number: int,
        state: PictureStateName,
        *,
        keep_s: float,
        cause: str | None = None,
        code: str | None = None,
        num_bytes: int = 0,
        entry: Mapping[str, Any] | None = None,
    ) -> bool:
        """Give a picture its one result; its file, if it has one, must be on the disk already.

        Args:
            job: id of the job.
            number: of the picture in it.
            state: its result.
            keep_s: seconds from now for which the result is kept.
            cause: why it failed, was refused or is held.
            code: the same for programs.
            num_bytes: of its file; 0 without one.
            entry: facts for the safety log, with their ``kind``.

        Returns:
            whether this was its result; ``False``: it has one already.
        """
        now = time.time()
        with self._writing() as db:
            done = db.execute(
                "UPDATE pictures SET state=?, begun=0, cause=?, code=?, bytes=?, expires=? "
                "WHERE job=? AND number=? AND state IN ('queued','drawing')",
                (state, cause, code, num_bytes, now + keep_s, job, number),
            )
            self._settle(db, job, now)
            if entry is not None and done.rowcount == 1:
                append_entry(db, now, **{"job": job, "picture": number, **entry})
            return done.rowcount == 1

    def end(self, job: str, state: PictureStateName, cause: str, *, keep_s: float) -> list[int]:
        """Cancel or expire the unfinished pictures of a job, and return their numbers."""
        now = time.time()
        with self._writing() as db:
            rows = db.execute(
                "UPDATE pictures SET state=?, begun=0, cause=?, expires=? "
                "WHERE job=? AND state IN ('queued','drawing') RETURNING number",
                (state, cause, now + keep_s, job),
            ).fetchall()
            self._settle(db, job, now)
            return sorted(row["number"] for row in rows)

    def _settle(self, db: sqlite3.Connection, job: str, now: float) -> None:
        """Derive the state of a job from those of its pictures, and write it."""
        rows = db.execute("SELECT state FROM pictures WHERE job=?", (job,)).fetchall()
        state = state_of(tuple(row["state"] for row in rows))
        finished = None if state in ("queued", "drawing") else now
        db.execute(
            "UPDATE jobs SET state=?, finished=CASE WHEN ? IS NULL THEN NULL ELSE coalesce(finished, ?) END WHERE id=?",
            (state, finished, finished, job),
        )

    # ---- reading ----

    def job(self, id_: str, *, key: str | None = None) -> Job | None:
        """A job, or ``None``: there is none, or it belongs to another key.

        Args:
            id_: of the job.
            key: whose it must be; ``None``: whoever's.
        """
        rows = self._rows("SELECT * FROM jobs WHERE id=?", (id_,))
        if not rows or (key is not None and rows[0]["key"] != key):
            return None
        pictures = self._rows("SELECT * FROM pictures WHERE job=? ORDER BY number", (id_,))
        row = dict(rows[0])
        for column in ("idempotency", "body_sha256", "hold"):
            row.pop(column)
        return Job(
            **{**row, "attached": bool(row["attached"]), "request": JobRequest(**json.loads(row["request"]))},
            pictures=tuple(PictureRow(**{**dict(one), "index": one["number"]}) for one in pictures),
        )

    def jobs_of(self, key: str, *, limit: int, only_open: bool = False) -> list[Job]:
        """The newest jobs of a key, newest first."""
        where = "AND state IN ('queued','drawing')" if only_open else ""
        rows = self._rows(
            f"SELECT id FROM jobs WHERE key=? {where} ORDER BY created DESC, rowid DESC LIMIT ?", (key, limit)
        )
        return [job for row in rows if (job := self.job(row["id"])) is not None]

    def path_of(self, token: str) -> Path:
        """Where the file of a picture is or will be."""
        return self.pictures / f"{token}.png"

    def delete_files(self, token: str) -> None:
        """Delete the file of a picture and its sidecar, where they are."""
        for path in (self.path_of(token), sidecar_of(self.path_of(token))):
            path.unlink(missing_ok=True)

    def shown(self, token: str) -> Path | None:
        """File of a picture that may be seen now, by its unguessable name."""
        rows = self._rows(
            "SELECT token FROM pictures WHERE token=? AND state='done' AND expires>?", (token, time.time())
        )
        return self.path_of(rows[0]["token"]) if rows else None

    # ---- retention ----

    def clean(self, *, job_s: float, max_bytes: int, decisions_s: float | None = None) -> int:
        """Delete pictures, jobs and entries of the safety log that are too old or beyond the limit of bytes.

        A job with a held picture stays until somebody decided on it, or its time is over.

        Args:
            job_s: seconds for which finished jobs are kept.
            max_bytes: of all pictures.
            decisions_s: seconds for which entries of the safety log are kept; ``None``: for good.

        Returns:
            number of pictures that were deleted.
        """
        now = time.time()
        with self._writing() as db:
            gone = [
                row["token"]
                for row in db.execute(
                    "SELECT token FROM pictures WHERE bytes>0 AND expires<=? AND state NOT IN ('queued','drawing')",
                    (now,),
                )
            ]
            kept = db.execute(
                "SELECT token, bytes FROM pictures WHERE bytes>0 AND expires>? ORDER BY expires DESC", (now,)
            ).fetchall()
            total = 0
            for row in kept:
                total += row["bytes"]
                if total > max_bytes:
                    gone.append(row["token"])
            gone += [
                row["token"]
                for row in db.execute(
                    "SELECT token FROM pictures JOIN jobs ON jobs.id=job WHERE bytes>0 AND finished<=? "
                    "AND pictures.state!='held'",
                    (now - job_s,),
                )
            ]
            gone = list(dict.fromkeys(gone))
            self._expire(db, gone, now)
            db.executemany(
                "UPDATE pictures SET bytes=0, expires=0 WHERE token=?", [(token,) for token in gone]
            )
            db.execute(
                "DELETE FROM jobs WHERE finished IS NOT NULL AND finished<=? AND NOT EXISTS "
                "(SELECT 1 FROM pictures WHERE job=jobs.id AND pictures.state='held')",
                (now - job_s,),
            )
            db.execute(
                "DELETE FROM drawn WHERE day<?", (time.strftime("%Y-%m-%d", time.gmtime(now - 90 * 86400)),)
            )
            if decisions_s is not None:
                prune_entries(db, now, before=now - decisions_s)
        for token in gone:
            self.delete_files(token)
        return len(gone)

    def adapters_in_use(self) -> set[str]:
        """Hashes of the adapters of all jobs that are not finished."""
        rows = self._rows("SELECT request FROM jobs WHERE state IN ('queued','drawing')")
        return {one["sha256"] for row in rows for one in json.loads(row["request"])["adapters"]}

    def sent_pictures_in_use(self) -> set[str]:
        """Hashes of the pictures that clients sent for jobs that are not finished, or that a person has to look at."""
        rows = self._rows(
            "SELECT request FROM jobs WHERE state IN ('queued','drawing') OR EXISTS "
            "(SELECT 1 FROM pictures WHERE job=jobs.id AND pictures.state='held')"
        )
        return {sha256 for row in rows for sha256 in JobRequest(**json.loads(row["request"])).sent_pictures}

    def _sweep_files(self) -> None:
        """Delete files that no row counts as a result: their pictures are drawn again."""
        known = {row["token"] for row in self._rows("SELECT token FROM pictures WHERE bytes>0")}
        for path in (*self.pictures.glob("*.png"), *self.pictures.glob("*.json")):
            if path.stem not in known:
                path.unlink(missing_ok=True)
