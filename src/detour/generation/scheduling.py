"""Which picture is drawn when: pictures join and leave running batches between ticks; one worker thread does all of it.

Callers on any thread hand in requests and wait for their own pictures. The worker takes the waiting requests of all
owners in turn, starts those for which there is room, and lets the running batches tick one after the other. It runs
only while there is something to draw, so that nothing of it is left between calls.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from detour.errors import DetourError, QueueFull
from detour.generation.adapter_store import NoRoom
from detour.generation.bounds import MAX_ROWS
from detour.generation.metering import Meter
from detour.generation.requests import Picture, PictureRequest
from detour.generation.states import PictureState
from detour.generation.widths import WidthClass, width_for

MAX_WAITING = 1024
"""Requests that may wait; further ones are refused."""

PATIENCE = 64
"""A request that was passed over so often goes first, whatever it holds up."""


class DrawsPictures(Protocol):
    """What the scheduler needs of whoever draws (``detour.generation.drawing.Drawing``)."""

    def measure(self, request: PictureRequest) -> tuple[int, tuple[int, int]]: ...
    def start(self, request: PictureRequest, width: WidthClass) -> PictureState: ...
    def tick(self, states: Sequence[PictureState]) -> dict[PictureState, Exception]: ...
    def finish(self, state: PictureState) -> Picture: ...
    def preview(self, state: PictureState) -> np.ndarray: ...
    def release(self, state: PictureState) -> None: ...
    def rest(self) -> None: ...


@dataclass(frozen=True)
class Step:
    """A picture after one of its forward passes, told on the worker's thread.

    Attributes:
        done: finished steps.
        total: steps in all.
        preview: decodes the picture as it stands, uint8 (H, W, 3); only to be called before the hook returns.
    """

    done: int
    total: int
    preview: Callable[[], np.ndarray]


OnPictureStep = Callable[[Step], None]


@dataclass(eq=False)
class PictureHandle:
    """A picture that was asked for.

    Attributes:
        request: what was asked.
        owner: whose it is, for fairness.
        num_rows: that it takes in each forward pass.
        size: width and height in pixels; pictures of one size can share a batch.
        future: gets the :class:`Picture`, or the error of this picture alone; for ``asyncio.wrap_future`` too.
    """

    request: PictureRequest
    owner: str
    num_rows: int
    size: tuple[int, int]
    on_step: OnPictureStep | None
    _scheduler: Scheduler = field(repr=False)
    future: Future[Picture] = field(default_factory=Future, repr=False)
    state: PictureState | None = field(default=None, repr=False)
    cancelled: bool = False
    passed_over: int = 0
    submitted: float = field(default_factory=time.monotonic)

    def result(self, timeout_s: float | None = None) -> Picture:
        """Wait for the picture.

        Raises:
            DetourError: it failed; others of its batch did not.
            concurrent.futures.CancelledError: it was cancelled.
            TimeoutError: it is not there in time; it is still being drawn.
        """
        return self.future.result(timeout_s)

    def cancel(self) -> None:
        """Drop the picture: at once where it waits, after the running tick where it is drawn."""
        self._scheduler.cancel(self)

    @property
    def done(self) -> bool:
        """Whether it is there, failed or was dropped."""
        return self.future.done()


@dataclass(eq=False)
class _Lane:
    """A running batch: pictures of equal company."""

    width: WidthClass
    size: tuple[int, int]
    company: tuple[Any, ...]
    members: list[PictureHandle] = field(default_factory=list)

    @property
    def room(self) -> int:
        return self.width - sum(handle.num_rows for handle in self.members)


class Scheduler:
    """Queue and worker of one drawing."""

    def __init__(
        self,
        drawing: DrawsPictures,
        *,
        max_waiting: int = MAX_WAITING,
        max_rows: int = MAX_ROWS,
        meter: Meter | None = None,
    ) -> None:
        """Make a scheduler that draws nothing yet.

        Args:
            drawing: draws; only the worker's thread calls it, but for ``measure``.
            max_waiting: requests that may wait.
            max_rows: of all pictures that are begun.
            meter: counts the time of the worker; ``None``: one of its own.
        """
        self._drawing, self._meter = drawing, meter or Meter()
        self._max_waiting, self._max_rows = max_waiting, max_rows
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._waiting: OrderedDict[str, deque[PictureHandle]] = OrderedDict()
        self._lanes: list[_Lane] = []
        self._thread: threading.Thread | None = None
        self._busy = False
        self._borrowers = 0

    def submit(
        self, request: PictureRequest, *, owner: str = "", on_step: OnPictureStep | None = None
    ) -> PictureHandle:
        """Hand in a request from any thread.

        Args:
            request: of one picture.
            owner: requests of different owners are taken in turn.
            on_step: told after each of its forward passes, on the worker's thread; what it raises fails the picture.

        Raises:
            ConfigError: the request asks for what cannot be drawn.
            QueueFull: too many are waiting.
        """
        handle = PictureHandle(request, owner, *self._drawing.measure(request), on_step, self)
        with self._lock:
            waiting = self.num_waiting
            if waiting >= self._max_waiting:
                raise QueueFull(f"{waiting} pictures are waiting, and no more are taken. Ask again later.")
            self._waiting.setdefault(owner, deque()).append(handle)
            if self._thread is None:
                # The thread count is part of the bytes: the worker computes with as many as whoever asked.
                self._thread = threading.Thread(
                    target=self._work, args=(torch.get_num_threads(),), name="detour-drawing", daemon=True
                )
                self._thread.start()
        return handle

    def cancel(self, handle: PictureHandle) -> None:
        """Cancel a request, as :meth:`PictureHandle.cancel` does."""
        with self._lock:
            handle.cancelled = True
            queue = self._waiting.get(handle.owner)
            if queue is None or handle not in queue:
                return
            queue.remove(handle)
            if not queue:
                del self._waiting[handle.owner]
        _fail(handle, CancelledError())

    @property
    def num_waiting(self) -> int:
        """Requests that nobody has begun."""
        return sum(map(len, self._waiting.values()))

    @property
    def rows_begun(self) -> int:
        """Rows of the pictures that are being drawn."""
        return sum(handle.num_rows for lane in self._lanes for handle in lane.members)

    def borrow(self) -> AbstractContextManager[None]:
        """A block in which the caller owns the models: the worker is not drawing, and waits until it ends.

        What is kept between pictures (texts, stacked adapters) is made anew afterwards, for the caller may change the
        models. Not for hooks, which the worker itself calls.
        """
        return _Borrowed(self)

    def _work(self, num_threads: int) -> None:
        if torch.get_num_threads() != num_threads:
            torch.set_num_threads(num_threads)
        try:
            with torch.no_grad():
                while self._turn():
                    pass
        except BaseException as error:  # nobody may wait for ever, whatever happens
            self._fail_all(error)
            raise

    def _turn(self) -> bool:
        """Admit, let one batch tick, release; False when there is nothing left to do."""
        with self._idle:
            while self._busy or self._borrowers:
                self._idle.wait()
            admitted = self._admit()
            if not admitted and not self._lanes:
                self._drawing.rest()
                self._thread = None
                return False
            self._busy = True
        try:
            with self._meter.phase("other"):
                for handle, width in admitted:
                    self._begin(handle, width)
                if self._lanes:
                    self._lanes.append(lane := self._lanes.pop(0))
                    self._tick(lane)
        finally:
            with self._idle:
                self._lanes = [lane for lane in self._lanes if lane.members]
                self._busy = False
                self._idle.notify_all()
        return True

    def _admit(self) -> list[tuple[PictureHandle, WidthClass]]:
        """Take waiting requests for which there is room, one of each owner in turn."""
        admitted: list[tuple[PictureHandle, WidthClass]] = []
        taken: dict[tuple[WidthClass, tuple[int, int]], int] = {}
        tried: set[str] = set()
        while len(tried) < len(self._waiting):
            owner = next(one for one in self._waiting if one not in tried)
            queue = self._waiting[owner]
            handle = queue[0]
            width = self._width_of(handle, taken)
            if width is None:
                tried.add(owner)
                handle.passed_over += len(admitted)
                if handle.passed_over > PATIENCE:
                    break
                continue
            queue.popleft()
            del self._waiting[owner]
            if queue:
                self._waiting[owner] = queue  # behind the others
            taken[width, handle.size] = taken.get((width, handle.size), 0) + handle.num_rows
            admitted.append((handle, width))
        return admitted

    def _width_of(
        self, handle: PictureHandle, taken: dict[tuple[WidthClass, tuple[int, int]], int]
    ) -> WidthClass | None:
        """Width class in which the picture can start now; ``None`` where it has to wait.

        Args:
            handle: that wants to start.
            taken: (class, size) → rows that are admitted and not yet in a batch.
        """
        if self.rows_begun + sum(taken.values()) + handle.num_rows > self._max_rows:
            return None
        rooms: dict[WidthClass, int] = {}
        for lane in self._lanes:
            if lane.size == handle.size:
                rooms[lane.width] = max(lane.room, rooms.get(lane.width, 0))
        for (width, size), rows in taken.items():
            if size == handle.size:
                rooms[width] = rooms.get(width, width) - rows
        if handle.request.width_class is not None:
            wanted = handle.request.width_class
            return wanted if rooms.get(wanted, wanted) >= handle.num_rows else None
        load = width_for(
            self._load(handle.size) + sum(n for (_, size), n in taken.items() if size == handle.size)
        )
        # A batch that is much wider than the load would be drawn out by this picture alone when the others leave.
        open_ones = [w for w, room in rooms.items() if room >= handle.num_rows and w <= 2 * load]
        if open_ones:
            return min(open_ones)
        return load if load not in rooms else None

    def _load(self, size: tuple[int, int]) -> int:
        """Rows of this size that are drawn or wait."""
        running = sum(h.num_rows for lane in self._lanes if lane.size == size for h in lane.members)
        waiting = sum(h.num_rows for queue in self._waiting.values() for h in queue if h.size == size)
        return running + waiting

    def _begin(self, handle: PictureHandle, width: WidthClass) -> None:
        try:
            state = self._drawing.start(handle.request, width)
        except NoRoom:
            with self._lock:
                if self._lanes:  # again when one of them is finished
                    self._waiting.setdefault(handle.owner, deque()).appendleft(handle)
                    self._waiting.move_to_end(handle.owner, last=False)
                    return
            _fail(handle, DetourError("adapters in use take all the memory that the engine has for them."))
            return
        except Exception as error:
            _fail(handle, error)
            return
        handle.state = state
        place = next(
            (one for one in self._lanes if one.company == state.company and one.room >= handle.num_rows), None
        )
        if place is None:
            place = _Lane(width, handle.size, state.company)
            self._lanes.append(place)
        place.members.append(handle)

    def _tick(self, lane: _Lane) -> None:
        """One step of every picture of the batch that is not cancelled; finished and failed ones leave."""
        for handle in [one for one in lane.members if one.cancelled]:
            self._leave(lane, handle, CancelledError())
        if not lane.members:
            return
        of_state = {handle.state: handle for handle in lane.members}
        failed = self._drawing.tick([state for state in of_state if state is not None])
        for state, error in failed.items():
            self._leave(lane, of_state[state], error)
        for handle in list(lane.members):
            try:
                picture = self._after(handle)
            except Exception as error:
                self._leave(lane, handle, error)
                continue
            if picture is not None:
                self._leave(lane, handle, picture)

    def _after(self, handle: PictureHandle) -> Picture | None:
        """Tell the picture's hook; the picture, if that was its last step."""
        state = handle.state
        assert state is not None
        if handle.on_step is not None:
            handle.on_step(Step(state.steps_done, state.how.steps, lambda: self._drawing.preview(state)))
        return self._drawing.finish(state) if state.is_finished else None

    def _leave(self, lane: _Lane, handle: PictureHandle, outcome: Picture | BaseException) -> None:
        lane.members.remove(handle)
        if handle.state is not None:
            self._drawing.release(handle.state)
            handle.state = None
        if isinstance(outcome, Picture):
            handle.future.set_result(outcome)
        else:
            _fail(handle, outcome)

    def _fail_all(self, error: BaseException) -> None:
        with self._idle:
            handles = [handle for queue in self._waiting.values() for handle in queue]
            handles += [handle for lane in self._lanes for handle in lane.members]
            self._waiting.clear()
            self._lanes.clear()
            self._thread = None
            self._busy = False
            self._idle.notify_all()
        for handle in handles:
            if not handle.done:
                _fail(handle, error)


class _Borrowed(AbstractContextManager[None]):
    """Context of :meth:`Scheduler.borrow`, in which nothing is drawn."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def __enter__(self) -> None:
        scheduler = self._scheduler
        with scheduler._idle:
            scheduler._borrowers += 1
            while scheduler._busy:
                scheduler._idle.wait()
            scheduler._borrowers -= 1
            scheduler._busy = True

    def __exit__(self, *_: object) -> None:
        scheduler = self._scheduler
        scheduler._drawing.rest()
        with scheduler._idle:
            scheduler._busy = False
            scheduler._idle.notify_all()


def _fail(handle: PictureHandle, error: BaseException) -> None:
    handle.future.set_exception(error)
