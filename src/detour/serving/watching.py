"""Notifies event streams and waiting connections of changes of a job, and waits for jobs on their behalf."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from detour.serving.jobs import Job
from detour.serving.keys import Client
from detour.serving.refusals import NotReady, TooBusy, TooLate
from detour.serving.service import Service

LOOK_S = 0.5
"""Seconds after which a waiting connection is checked, though nothing has changed."""


class Hub:
    """Job → connections that wait for its changes; notified from any thread, awaited on the event loop."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._streams: dict[str, int] = {}
        self.is_closed = False

    def open(self) -> None:
        """Bind the hub to the running event loop."""
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """Wake everything that waits, because no further change will come."""
        self.is_closed = True
        for events in self._waiting.values():
            for event in events:
                event.set()

    def tell(self, job: str) -> None:
        """Notify those who wait for a job, from any thread."""
        if job in self._waiting and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._set, job)

    def _set(self, job: str) -> None:
        for event in self._waiting.get(job, ()):
            event.set()

    @contextlib.contextmanager
    def watch(self, job: str) -> Iterator[asyncio.Event]:
        """Event that is set when the job has changed."""
        event = asyncio.Event()
        self._waiting.setdefault(job, set()).add(event)
        try:
            yield event
        finally:
            self._waiting[job].discard(event)
            if not self._waiting[job]:
                del self._waiting[job]

    @contextlib.contextmanager
    def stream_of(self, client: Client, most: int) -> Iterator[None]:
        """Count an open connection of a key.

        Raises:
            TooBusy: it has as many as it may.
        """
        if self._streams.get(client.id, 0) >= most:
            raise TooBusy(
                f"this key has {most} waiting connections, the most that it may have. Close one, or ask again later.",
                retry_after_s=5,
            )
        self._streams[client.id] = self._streams.get(client.id, 0) + 1
        try:
            yield
        finally:
            self._streams[client.id] -= 1
            if not self._streams[client.id]:
                del self._streams[client.id]


async def changed(event: asyncio.Event, timeout_s: float = LOOK_S) -> bool:
    """Wait until the event is set, and clear it; ``False`` after the time limit."""
    try:
        await asyncio.wait_for(event.wait(), timeout_s)
    except TimeoutError:
        return False
    event.clear()
    return True


async def until_done(service: Service, hub: Hub, job: Job, client: Client, request: Request) -> Job:
    """Wait for a job on behalf of a connection, and cancel the job when the connection ends.

    Raises:
        TooLate: the client has gone.
        NotReady: the server stops before the job is drawn.
    """
    try:
        with hub.watch(job.id) as event:
            while job.is_open:
                if hub.is_closed:
                    raise NotReady("the server is stopping. Ask again later.")
                if await changed(event) or not service.is_ready:
                    job = await run_in_threadpool(service.job, client, job.id)
                elif await request.is_disconnected():
                    raise TooLate("the client has gone.", code="client_gone")
    except BaseException:
        if job.attached:
            with contextlib.suppress(Exception):
                await asyncio.shield(run_in_threadpool(service.cancel, client, job.id, "its client has gone"))
        raise
    return job
