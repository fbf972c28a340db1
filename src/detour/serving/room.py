"""Room in the queue: a job is accepted only where the queue and the share of its key have room for its work."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator

from detour.generation.widths import WidthClass, width_for
from detour.serving.dispatch import Dispatcher
from detour.serving.refusals import BadRequest, TooBusy
from detour.serving.settings import LimitsSpec

UNMEASURED_RETRY_S = 5
"""Seconds to wait that a full server names before it has measured how fast it draws."""
LONGEST_RETRY_S = 600


class Room:
    """Reserves room for jobs that are being accepted and are not in the queue yet."""

    def __init__(self, dispatcher: Dispatcher, limits: LimitsSpec) -> None:
        """Make a room in which nothing is reserved yet.

        Args:
            dispatcher: knows what waits and is being drawn.
            limits: most work of all keys, and of one.
        """
        self._dispatcher, self._limits = dispatcher, limits
        self._lock = threading.Lock()
        self._reserved: dict[str, float] = {}
        self._rows: Counter[tuple[int, int]] = Counter()

    @contextlib.contextmanager
    def reserved(self, key: str, *, work: float, size: tuple[int, int], rows: int) -> Iterator[WidthClass]:
        """Reserve room for one job until the block has ended; the job is in the queue then, or refused.

        Args:
            key: id of the key whose job it is.
            work: of the job, in steps x rows x area.
            size: width and height of its pictures in pixels.
            rows: batch rows of all its pictures.

        Yields:
            the width class of its pictures: jobs that come at once share a batch.

        Raises:
            TooBusy: there is no room now.
            BadRequest: there never is for a job of this size.
        """
        with self._lock:
            self.require(key, work)
            self._reserved[key] = self._reserved.get(key, 0.0) + work
            self._rows[size] += rows
            width = width_for(self._dispatcher.rows_open(size) + self._rows[size])
        try:
            yield width
        finally:
            with self._lock:
                self._rows[size] -= rows
                if not self._rows[size]:
                    del self._rows[size]
                self._reserved[key] -= work
                if self._reserved[key] <= 1e-6:
                    del self._reserved[key]

    @contextlib.contextmanager
    def closed(self) -> Iterator[bool]:
        """Reserve nothing more inside the block; yields whether no job is being accepted."""
        with self._lock:
            yield not self._reserved

    def require(self, key: str, work: float) -> None:
        """Refuse a job for which the queue, or the share of its key, has no room.

        Args:
            key: id of the key.
            work: of the job, in steps x rows x area; 0: before anything is known of it.

        Raises:
            TooBusy: there is no room now.
            BadRequest: there never is for a job of this size.
        """
        limits = self._limits
        own = limits.max_work / 2 if limits.max_work_of_key == "auto" else limits.max_work_of_key
        dispatcher = self._dispatcher
        most = limits.max_work
        total = dispatcher.work + sum(self._reserved.values()) + work
        mine = dispatcher.work_of_key(key) + self._reserved.get(key, 0.0) + work
        if work > min(most, own):
            raise BadRequest(
                "the job is larger than the whole queue. Ask for fewer or smaller pictures, or for fewer steps."
            )
        over = max(total - most, mine - own)
        if over < 0 or (over == 0 and work > 0):
            return
        rate = dispatcher.rate.per_second
        wait = UNMEASURED_RETRY_S if rate is None else min(LONGEST_RETRY_S, max(1, int(over / rate) + 1))
        whose = (
            "the queue is full" if total - most >= mine - own else "this key has as much waiting as it may"
        )
        raise TooBusy(f"{whose}. Ask again in {wait} s.", retry_after_s=wait)
