"""The picture service: checks requests of all HTTP interfaces by the same rules and makes durable jobs of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from detour.bases.base import Base
from detour.bases.hardware import set_threads
from detour.errors import StorageError
from detour.files import is_unicode
from detour.generation.metering import Meter
from detour.generation.sidecar import Signs
from detour.serving.dispatch import Dispatcher
from detour.serving.drawing import PictureFiles
from detour.serving.engines import ServingEngine
from detour.serving.held import Outcome, VotedAlready
from detour.serving.jobs import Job
from detour.serving.keys import Client
from detour.serving.policy import NoPolicy, Policy
from detour.serving.references import DecodedReference, ServedReferences
from detour.serving.refusals import (
    BadRequest,
    Conflict,
    NotFound,
    NotReady,
    OverQuota,
    ServeError,
    Unprocessable,
)
from detour.serving.request_policy import decide_request
from detour.serving.requests import ClientRequest, resolved_request
from detour.serving.room import Room
from detour.serving.sent_pictures import forget
from detour.serving.settings import ServeSpec
from detour.serving.shelf import Shelf
from detour.serving.starts import sent_start
from detour.serving.store import BodyDiffers, JobStore, NewJob, QuotaSpent


@dataclass
class Counts:
    """Counters of ``/metrics`` that the dispatcher does not keep.

    Attributes:
        accepted: jobs.
        refused: code → requests that were not accepted.
        decided: released or refused → held pictures that a person decided on.
        released_work: steps x rows x area of those that were released.
    """

    accepted: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    decided: dict[str, int] = field(default_factory=dict)
    released_work: float = 0.0


class Service:
    """Accepts, answers about and ends jobs of one engine, one job store and one folder of adapters."""

    def __init__(
        self,
        spec: ServeSpec,
        store: JobStore,
        *,
        policy: Policy | None = None,
        signer: Signs | None = None,
        on_change: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Make a service that is not ready until :meth:`start` was called.

        Args:
            spec: settings.
            store: of the jobs.
            policy: safety; ``None``: everything is allowed.
            signer: puts signed manifests into pictures; ``None``: they have none.
            on_change: called with the id of a job when something of it has changed, on any thread.
        """
        self.spec, self.store = spec, store
        self.policy: Policy = NoPolicy() if policy is None else policy
        self.counts, self._signer = Counts(), signer
        self.stage = "starting"
        self._on_change = on_change
        self._dispatcher: Dispatcher | None = None
        self._shelf: Shelf | None = None
        self._base: Base | None = None
        self._engine: ServingEngine | None = None
        self.references: ServedReferences | None = None
        self._room: Room | None = None
        self._stopping = False

    # ---- start and stop ----

    def start(self, engine: ServingEngine, *, dtype: str, num_engines: int = 1) -> int:
        """Begin to draw, first the unfinished jobs of an earlier run of the server.

        Args:
            engine: draws.
            dtype: precision of the pictures.
            num_engines: models behind ``engine``.

        Returns:
            number of pictures of earlier runs that are still to be drawn.
        """
        self._engine, self._base = engine, engine.base
        self._shelf = Shelf(
            self.spec.adapters, engine.base, self.store.folder / "adapters", network=engine.unet
        )
        self._shelf.refresh()
        if self.spec.references is not None:
            self.references = ServedReferences.open(self.spec.references, engine.base, engine, dtype=dtype)
        self._dispatcher = Dispatcher(
            engine,
            self.store,
            PictureFiles(
                engine,
                self._shelf,
                self.store,
                dtype=dtype,
                signer=self._signer,
                references=self.references,
                mark=self.spec.provenance.mark,
            ),
            self.policy,
            native_px=engine.base.native_size_px,
            keep_s=self.spec.keeping.picture_s,
            on_change=self._on_change,
            begin_thread=self._set_threads,
            meter=engine.meter,
            num_engines=num_engines,
        )
        self._room = Room(self._dispatcher, self.spec.limits)
        jobs = self.store.recover()
        self._dispatcher.add(*jobs)
        self.stage = "ready"
        return sum(len([one for one in job.pictures if one.state == "queued"]) for job in jobs)

    def _set_threads(self) -> None:
        set_threads(self.spec.threads)

    def refuse_new(self) -> None:
        """Refuse new jobs, because the server is stopping."""
        self._stopping, self.stage = True, "stopping"

    def stop(self) -> int:
        """Let running pictures finish and keep the others in the queue; return how many were cut short."""
        self.refuse_new()
        return 0 if self._dispatcher is None else self._dispatcher.stop(self.spec.stop_s)

    def hurry(self) -> None:
        """Let a :meth:`stop` that is waiting wait no longer."""
        if self._dispatcher is not None:
            self._dispatcher.hurry()

    @property
    def num_drawing(self) -> int:
        """Number of pictures that are being drawn."""
        return 0 if self._dispatcher is None else self._dispatcher.num_drawing

    def tick(self) -> None:
        """Do the work of every second: end jobs whose deadline has passed, and scan the folder of adapters."""
        if self._dispatcher is None or self._stopping:
            return
        for id_ in self.dispatcher.overdue():
            self._end(id_, "expired", "its deadline passed before it was drawn")
        self.shelf.refresh()

    def clean(self) -> None:
        """Delete pictures, jobs and copies of adapters that are past their time."""
        keeping = self.spec.keeping
        most = (2 << 30) - 1 if keeping.max_bytes == "auto" else keeping.max_bytes
        self.store.clean(job_s=keeping.job_s, max_bytes=most, decisions_s=self.policy.rules.decisions_s)
        if self._room is None or self._shelf is None:
            return
        with self._room.closed() as is_free:
            if is_free:  # a job that is being accepted needs its copies
                self._shelf.forget_copies(self.store.adapters_in_use())
                forget(self.store.folder, self.store.sent_pictures_in_use())

    @property
    def is_ready(self) -> bool:
        """Whether jobs are accepted."""
        return self.stage == "ready" and self.dispatcher.storage_problem is None

    @property
    def why_not_ready(self) -> str:
        """Cause in one line why jobs are not accepted."""
        problem = None if self._dispatcher is None else self._dispatcher.storage_problem
        return problem or {"stopping": "the server is stopping"}.get(
            self.stage, f"the server is {self.stage}"
        )

    @property
    def dispatcher(self) -> Dispatcher:
        """Dispatcher of a service that has started."""
        self._require_started()
        assert self._dispatcher is not None
        return self._dispatcher

    @property
    def room(self) -> Room:
        """Room in the queue of a service that has started."""
        self._require_started()
        assert self._room is not None
        return self._room

    @property
    def shelf(self) -> Shelf:
        """Adapters of a service that has started."""
        self._require_started()
        assert self._shelf is not None
        return self._shelf

    @property
    def base(self) -> Base:
        """Base of a service that has started."""
        self._require_started()
        assert self._base is not None
        return self._base

    @property
    def meter(self) -> Meter:
        """Meter of the engine's work, of a service that has started."""
        self._require_started()
        assert self._engine is not None
        return self._engine.meter

    def _require_started(self) -> None:
        if self._dispatcher is None:
            raise NotReady(f"the server is {self.stage}. Ask again in some seconds.")

    # ---- accepting ----

    def require_room(self, client: Client) -> None:
        """Refuse at once where the queue is full, before anything is parsed, read or written.

        Raises:
            NotReady: the server is loading or stopping, or its disk is full.
            TooBusy: the queue, or the share of this key, is full.
        """
        with self._counting_refusals():
            if not self.is_ready:
                raise NotReady(f"{self.why_not_ready}. Ask again later.")
            self.room.require(client.id, 0.0)

    def accept(self, client: Client, asked: ClientRequest) -> tuple[Job, bool]:
        """Check a request and write it as a job; it is durable when this returns. Blocks: not for the event loop.

        Returns:
            the job, and whether it is new (an Idempotency-Key that comes again gets the job that it got first).

        Raises:
            ServeError: it is not accepted, and why.
        """
        with self._counting_refusals():
            try:
                return self._accept(client, asked)
            except StorageError as error:
                raise NotReady(f"the job could not be written: {error}") from error

    @contextlib.contextmanager
    def _counting_refusals(self) -> Iterator[None]:
        try:
            yield
        except ServeError as error:
            self.counts.refused[error.code] = self.counts.refused.get(error.code, 0) + 1
            raise

    def _accept(self, client: Client, asked: ClientRequest) -> tuple[Job, bool]:
        if not self.is_ready:
            raise NotReady(f"{self.why_not_ready}. Ask again later.")
        if asked.idempotency is not None:
            try:
                earlier = self.store.repeated(client.id, asked.idempotency, asked.body_sha256)
            except BodyDiffers as error:
                raise Unprocessable(str(error), code="idempotency_key_reused") from error
            if earlier is not None:
                return earlier, False
        assert self._engine is not None
        sent = None if asked.start is None else sent_start(asked.start, self.spec.starts)
        request = resolved_request(
            asked,
            limits=self.spec.limits,
            engine=self._engine,
            steering=self.policy.steering,
            size_px=None if sent is None else sent.size(self.base),
        )
        pictures = self._decoded_references(asked)
        shown = [one.pixels for one in pictures]
        if sent is not None:
            request, start = sent.begin(request, self.base)
            shown.append(start.pixels)
        work = len(request.prompts) * request.work_of_picture(self.base.native_size_px)
        size, rows = (request.width_px, request.height_px), len(request.prompts) * request.num_rows
        with self.room.reserved(client.id, work=work, size=size, rows=rows) as width:
            request = request.model_copy(update={"width_class": width})
            update: dict[str, Any] = {"adapters": self._pinned(asked)}
            if self.references is not None:
                update["references"] = tuple(self.references.pinned(one) for one in pictures)
            request = request.model_copy(update=update)
            decided = decide_request(
                request,
                shown,
                client=client,
                triggers=[text for one in request.adapters for text in self.shelf.texts_of(one.sha256)],
                policy=self.policy,
                store=self.store,
                meter=self.meter,
            )
            for one in pictures:
                one.keep(self.store.folder)
            if sent is not None:
                sent.keep(self.store.folder)
            new = NewJob(
                key=client.id,
                request=decided.request,
                deadline=None if asked.deadline_s is None else time.time() + asked.deadline_s,
                attached=asked.attached,
                policy=self.policy.version,
                revised=decided.revised,
                refused=decided.refused,
                holds=decided.holds,
                idempotency=asked.idempotency,
                body_sha256=asked.body_sha256,
                per_day=client.per_day,
            )
            job, is_new = self._written(new)
            if is_new:
                self.counts.accepted += 1
                self.dispatcher.add(job)
        return job, is_new

    def _written(self, new: NewJob) -> tuple[Job, bool]:
        try:
            return self.store.accept(new)
        except QuotaSpent as error:
            raise OverQuota(str(error)) from error
        except BodyDiffers as error:
            raise Unprocessable(str(error), code="idempotency_key_reused") from error

    def _pinned(self, asked: ClientRequest) -> tuple[Any, ...]:
        return tuple(self.shelf.pin(name, weight) for name, weight in asked.adapters)

    def _decoded_references(self, asked: ClientRequest) -> list[DecodedReference]:
        """Decode the reference pictures of a request within the limits.

        Raises:
            BadRequest: there are none to be had here, too many, or one that cannot be used.
        """
        if not asked.references:
            return []
        if self.references is None:
            raise BadRequest(
                "this server takes no reference pictures. Its operator can serve them with --reference-adapter.",
                param="references",
            )
        return self.references.decoded(asked.references)

    # ---- jobs of a client ----

    def job(self, client: Client, id_: str) -> Job:
        """A job of this client.

        Raises:
            NotFound: there is none, or it is another key's.
        """
        found = self.store.job(id_, key=client.id) if is_unicode(id_) else None
        if found is None:
            raise NotFound("no such job.")
        return found

    def cancel(self, client: Client, id_: str, cause: str = "cancelled by its client") -> Job:
        """End what of a job is not finished; finished pictures stay.

        Raises:
            NotFound: there is none, or it is another key's.
        """
        self.job(client, id_)
        self._end(id_, "cancelled", cause)
        return self.job(client, id_)

    def _end(self, id_: str, state: Any, cause: str) -> None:
        numbers = self.store.end(id_, state, cause, keep_s=self.spec.keeping.picture_s)
        self.dispatcher.drop(id_, numbers)

    def decide(self, client: Client, job: str, number: int, *, release: bool, cause: str) -> Outcome:
        """Write down what a person decides about a held picture, and carry it out when it is decided.

        Args:
            client: the key of the person.
            job: id of the job.
            number: of the picture in it.
            release: let its client have it.
            cause: shown to the client; empty for a plain sentence.

        Returns:
            ``done``, ``refused``, or ``held`` while the policy asks for a second key.

        Raises:
            Conflict: it was decided, expired, or never there; or this key has released it before.
        """
        said = cause or ("released by a person" if release else "refused by a person")
        try:
            state = self.store.decide(
                job,
                number,
                release=release,
                key=client.id,
                name=client.name,
                cause=said,
                keep_s=self.spec.keeping.picture_s,
                two_persons=self.policy.rules.two_persons,
            )
        except VotedAlready as error:
            raise Conflict(str(error), code="second_person_needed") from error
        if state is None:
            raise Conflict("no such picture is held: it was decided, expired, or never there.")
        if state != "held":
            self._count_decision(job, "released" if state == "done" else "refused")
        self._on_change(job)
        return state

    def _count_decision(self, job: str, decision: str) -> None:
        self.counts.decided[decision] = self.counts.decided.get(decision, 0) + 1
        found = self.store.job(job)
        if decision == "released" and found is not None:
            self.counts.released_work += found.request.work_of_picture(self.base.native_size_px)
