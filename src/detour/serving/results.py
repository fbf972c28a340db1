"""The result of a drawn picture: it is checked by the policy, written as a file, and recorded in the job store."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np

from detour.errors import DetourError, StorageError
from detour.generation.metering import Meter
from detour.generation.requests import Picture, PictureRequest
from detour.serving.jobs import Job, PictureStateName
from detour.serving.policy import Allowed, Held, Policy, Refused
from detour.serving.store import JobStore

PictureKey = tuple[str, int]
"""Identifies a picture by the id of its job and its number in it."""


class MakesPictures(Protocol):
    """Makes a request of the engine for a job's picture, and a file of its result."""

    def request_of(self, job: Job, number: int) -> PictureRequest: ...
    def write(self, job: Job, number: int, picture: Picture) -> int:
        """Write the file and return its bytes; durable when this returns."""

    def preview_of(self, pixels: np.ndarray) -> bytes: ...


class ResultWriter:
    """Gives each drawn picture of a job its one result."""

    def __init__(
        self, store: JobStore, pictures: MakesPictures, policy: Policy, *, keep_s: float, meter: Meter
    ) -> None:
        """Put together what a result needs.

        Args:
            store: where states and results go.
            pictures: writes the files.
            policy: looks at finished pictures.
            keep_s: seconds for which a result can be fetched.
            meter: counts what checks cost.
        """
        self._store, self._pictures, self._policy = store, pictures, policy
        self._keep_s, self._meter = keep_s, meter

    def write(self, ref: PictureKey, job: Job, outcome: Picture | BaseException) -> str:
        """Check a result, write it, and return the state of its picture.

        Raises:
            StorageError: nothing was written.
        """
        if isinstance(outcome, BaseException):
            cause = (
                str(outcome)
                if isinstance(outcome, DetourError)
                else f"internal error ({type(outcome).__name__})"
            )
            self._store.finish(*ref, "failed", keep_s=self._keep_s, cause=cause, code="failed")
            return "failed"
        if outcome.unchecked is not None:  # a reviewer must see what the base's checker refused
            outcome = replace(outcome, pixels=outcome.unchecked)
        try:
            with self._meter.phase("safety"):
                decision = self._policy.check_picture(outcome.pixels, job.request, flagged=outcome.nsfw)
            self._meter.count("safety")
        except Exception as error:  # what cannot be checked is not shown
            decision = Refused(
                code="check_failed", cause=f"the picture could not be checked ({type(error).__name__})"
            )
        if outcome.nsfw and isinstance(decision, Allowed):  # a policy without the layer, or none
            decision = Refused(code="base_checker", cause="the base's own safety checker refused the picture")
        facts = {"policy": self._policy.version, "key": job.key, "prompt": self._kept_prompt(job, ref[1])}
        if isinstance(decision, Refused):
            entry = {"kind": "picture-refused", "code": decision.code, "cause": decision.detail, **facts}
            self._store.finish(
                *ref, "refused", keep_s=self._keep_s, cause=decision.cause, code=decision.code, entry=entry
            )
            return "refused"
        try:
            num_bytes = self._pictures.write(job, ref[1], outcome)
        except StorageError:
            raise
        except Exception as error:  # such as a certificate that has expired
            cause = f"the picture could not be written ({type(error).__name__})"
            entry = {"kind": "picture-not-written", "cause": str(error), **facts}
            self._store.finish(
                *ref, "failed", keep_s=self._keep_s, cause=cause, code="not_written", entry=entry
            )
            return "failed"
        hold = decision.cause if isinstance(decision, Held) else job.pictures[ref[1]].hold
        state: PictureStateName = "done" if hold is None else "held"
        held_s = self._policy.rules.held_s
        keep_s = self._keep_s if state == "done" or held_s is None else held_s
        held = None if hold is None else {"kind": "picture-held", "cause": hold, **facts}
        if not self._store.finish(
            *ref,
            state,
            keep_s=keep_s,
            cause=hold,
            num_bytes=num_bytes,
            entry=held,
        ):
            # It was cancelled meanwhile: what was written is no result.
            self._store.delete_files(job.pictures[ref[1]].token)
            return "cancelled"
        return state

    def _kept_prompt(self, job: Job, number: int) -> str:
        return self._policy.rules.prompt_kept(job.request.prompts[number])
