"""The queue of pictures: feeds the drawing engine, keys taking turns, and writes the results to the job store."""

from __future__ import annotations

import itertools
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from detour.errors import StorageError
from detour.generation.metering import Meter
from detour.generation.requests import Picture
from detour.generation.scheduling import Step
from detour.generation.widths import WIDTH_CLASSES
from detour.serving.engines import Draws, Handle
from detour.serving.jobs import Job
from detour.serving.policy import Policy
from detour.serving.rate import Rate
from detour.serving.results import MakesPictures, PictureKey, ResultWriter
from detour.serving.store import ASIDE_DEATHS, JobStore

ROWS_AHEAD = 3 * WIDTH_CLASSES[-1]
"""Most batch rows that the engine has at once: two batches of the widest class, and one to follow without a pause."""

SUSPECT_DEATHS = 3
"""Number of server deaths during a picture after which it is drawn alone, to find out whether it is the cause."""

STORAGE_RETRY_S = 2.0


@dataclass
class Progress:
    """Progress of the pictures of an unfinished job.

    Attributes:
        steps: number of the picture → (finished steps, steps in all).
        previews: number of the picture → (previews so far, the newest as PNG).
        wanted_previews: number of previews of each picture that a client asked for.
    """

    steps: dict[int, tuple[int, int]] = field(default_factory=dict)
    previews: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    wanted_previews: int = 0


@dataclass
class _Waiting:
    """An unfinished job with the numbers of its pictures that are not begun."""

    job: Job
    numbers: deque[int]
    order: int

    @property
    def urgency(self) -> tuple[float, int]:
        return (float("inf") if self.job.deadline is None else self.job.deadline, self.order)


class Dispatcher:
    """Queue in front of the engine. One writer thread begins and finishes pictures; no caller waits for drawing."""

    def __init__(
        self,
        engine: Draws,
        store: JobStore,
        pictures: MakesPictures,
        policy: Policy,
        *,
        native_px: int,
        keep_s: float,
        on_change: Callable[[str], None],
        begin_thread: Callable[[], None] = lambda: None,
        meter: Meter | None = None,
        num_engines: int = 1,
    ) -> None:
        """Make a dispatcher that draws nothing until it is started.

        Args:
            engine: draws.
            store: where states and results go.
            pictures: makes requests and files.
            policy: looks at finished pictures.
            native_px: side of a picture whose area counts 1.
            keep_s: seconds for which a result can be fetched.
            on_change: called with the id of a job whenever something of it has changed, on any thread.
            begin_thread: called once on the writer's thread; the engine draws with as many threads as it has.
            meter: counts what checks and files cost; ``None``: one of its own.
            num_engines: models behind ``engine``, which are given so many times as much at once.
        """
        self._engine, self._store, self._pictures, self._policy = engine, store, pictures, policy
        self.native_px, self._on_change = native_px, on_change
        self._rows_ahead = num_engines * ROWS_AHEAD
        self._lock = threading.Lock()
        self._jobs: OrderedDict[str, _Waiting] = OrderedDict()
        self._owners: OrderedDict[str, None] = OrderedDict()
        self._in_engine: dict[PictureKey, Handle | None] = {}
        self._progress: dict[str, Progress] = {}
        self._open: dict[str, float] = {}
        self._order = itertools.count()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="detour-serving", initializer=begin_thread)
        self._stopping, self._hurry = threading.Event(), threading.Event()
        self.rate = Rate()
        self.storage_problem: str | None = None
        self.outcomes: dict[str, int] = {}
        self.finished_work: dict[str, float] = {}
        self._meter = meter or Meter(native_px)
        self._results = ResultWriter(store, pictures, policy, keep_s=keep_s, meter=self._meter)

    # ---- figures and progress ----

    @property
    def work(self) -> float:
        """Work of all pictures that wait or are being drawn, in steps x rows x area."""
        with self._lock:
            return sum(self._open.values())

    @property
    def work_under_way(self) -> float:
        """Work done so far for pictures that are not finished, in steps x rows x area."""
        with self._lock:
            return sum(
                self._jobs[job].job.request.work_of_picture(self.native_px) * done / total
                for job, progress in self._progress.items()
                for number, (done, total) in progress.steps.items()
                if (job, number) in self._in_engine and job in self._jobs
            )

    def work_of_key(self, key: str) -> float:
        """Work of one key's pictures that wait or are being drawn."""
        with self._lock:
            return self._open.get(key, 0.0)

    @property
    def num_waiting(self) -> int:
        """Number of pictures that are not begun."""
        with self._lock:
            return sum(len(one.numbers) for one in self._jobs.values())

    @property
    def num_drawing(self) -> int:
        """Number of pictures that the engine has."""
        with self._lock:
            return len(self._in_engine)

    def rows_open(self, size: tuple[int, int]) -> int:
        """Number of batch rows of this size that wait or are being drawn."""
        with self._lock:
            return sum(
                len(self._unfinished(one)) * one.job.request.num_rows
                for one in self._jobs.values()
                if (one.job.request.width_px, one.job.request.height_px) == size
            )

    def progress(self, job: str) -> Progress | None:
        """Progress of an unfinished job; ``None`` for any other."""
        with self._lock:
            return self._progress.get(job)

    def want_previews(self, job: str, num: int) -> None:
        """Ask for previews of each picture of a job; there are none where a policy looks at pictures."""
        with self._lock:
            found = self._progress.get(job)
            if found is not None and not self._policy.checks_pictures:
                found.wanted_previews = max(found.wanted_previews, num)

    def place(self, job: str) -> tuple[int, float | None]:
        """Number of pictures that go before the first waiting one of a job, and the seconds until the job is done.

        Keys take turns, so of another key only as many go before it as it has places itself.
        """
        with self._lock:
            mine = self._jobs.get(job)
            if mine is None:
                return 0, None
            before = [one for one in self._jobs.values() if one is not mine]
            own = [one for one in before if one.job.key == mine.job.key and one.urgency < mine.urgency]
            num_own, last = sum(len(one.numbers) for one in own), len(mine.numbers)
            work = self._work_of(mine.job) + sum(self._work_of(one.job) for one in own)
            ahead = num_own
            for key in {one.job.key for one in before} - {mine.job.key}:
                theirs = [one for one in before if one.job.key == key]
                num = sum(len(one.numbers) for one in theirs)
                ahead += min(num, num_own + 1)
                share = min(1.0, (num_own + last) / num) if num else 1.0
                work += share * sum(self._work_of(one.job) for one in theirs)
        rate = self.rate.per_second
        return ahead + len(self._in_engine) if mine.numbers else 0, work / rate if rate else None

    # ---- jobs in and out ----

    def add(self, *jobs: Job) -> None:
        """Put jobs that the store has accepted into the queue, all at once: the most urgent are drawn first."""
        with self._lock:
            for job in jobs:
                left = [one for one in job.pictures if one.state in ("queued", "drawing")]
                ordered = sorted(left, key=lambda one: one.deaths_alone >= ASIDE_DEATHS)
                numbers = deque(one.index for one in ordered)
                self._jobs[job.id] = _Waiting(job, numbers, next(self._order))
                self._owners.setdefault(job.key)
                self._progress[job.id] = Progress()
                self._count(job, len(numbers))
        self._wake()

    def drop(self, job: str, numbers: list[int]) -> None:
        """Remove pictures that the store has cancelled or expired from the queue and from the engine."""
        with self._lock:
            found = self._jobs.pop(job, None)
            if found is None:
                return
            handles = [self._in_engine.get((job, number)) for number in numbers]
            self._progress.pop(job, None)
            self._count(found.job, -len(numbers))
        for handle in handles:
            if handle is not None:
                handle.cancel()
        self._on_change(job)

    def overdue(self) -> list[str]:
        """Ids of the jobs whose deadline has passed."""
        now = time.time()
        with self._lock:
            return [
                id_
                for id_, one in self._jobs.items()
                if one.job.deadline is not None and one.job.deadline < now
            ]

    def stop(self, timeout_s: float) -> int:
        """Begin nothing more, let running pictures finish, and leave the others in the queue.

        Args:
            timeout_s: seconds; a picture that is not finished then is cut short, and drawn anew at the next start.

        Returns:
            number of pictures that were cut short.
        """
        self._stopping.set()
        end = time.monotonic() + timeout_s
        while time.monotonic() < end and not self._hurry.wait(0.05):
            with self._lock:
                if not self._in_engine:
                    break
        with self._lock:
            left = dict(self._in_engine)
        for handle in left.values():
            if handle is not None:
                handle.cancel()
        self._writer.shutdown(wait=True)
        if left:
            self._store.put_back(list(left))
        return len(left)

    def hurry(self) -> None:
        """Let a :meth:`stop` that is waiting wait no longer."""
        self._hurry.set()

    # ---- the writer's thread ----

    def _wake(self) -> None:
        if not self._stopping.is_set():
            try:
                self._writer.submit(self._feed)
            except RuntimeError:  # stopped between the two lines; the job is in the store
                return

    def _feed(self) -> None:
        """Give the engine pictures while it has room for them."""
        chosen = []
        with self._lock:
            while not self._stopping.is_set() and (ref := self._next()) is not None:
                self._in_engine[ref] = None
                chosen.append(ref)
        if not chosen:
            return
        for ref in self._recorded(chosen):
            self._begin(ref)

    def _recorded(self, chosen: list[PictureKey]) -> list[PictureKey]:
        """Record in the store that pictures are being drawn, and return those of which that could be recorded.

        A full or locked disk is waited for. A picture that the store rejects for another cause fails alone.
        """
        while True:
            try:
                self._store.begin(chosen)
            except StorageError as error:
                if not self._wait_for_storage(error):
                    with self._lock:
                        for ref in chosen:
                            self._in_engine.pop(ref, None)
                    return []
            except Exception as error:
                if len(chosen) > 1:
                    return [ref for one in chosen for ref in self._recorded([one])]
                with self._lock:
                    found = self._jobs.get(chosen[0][0])
                    if found is None:
                        self._in_engine.pop(chosen[0], None)
                if found is not None:
                    self._settle(chosen[0], found.job, error)
                return []
            else:
                self.storage_problem = None
                return chosen

    def _next(self) -> PictureKey | None:
        """Choose the next picture: keys take turns, each by deadline and age; suspects alone, set-aside ones last."""
        waiting = [one for one in self._jobs.values() if one.numbers]
        in_turn = [one for one in waiting if not self._is_aside(one)] or waiting
        rows = sum(self._jobs[job].job.request.num_rows for job, _ in self._in_engine if job in self._jobs)
        if any(self._is_suspect(ref) for ref in self._in_engine):
            return None
        for key in list(self._owners):
            mine = [one for one in in_turn if one.job.key == key]
            if not mine:
                if all(one.job.key != key for one in self._jobs.values()):
                    del self._owners[key]
                continue
            first = min(mine, key=lambda one: one.urgency)
            ref = (first.job.id, first.numbers[0])
            if self._in_engine and (
                self._is_suspect(ref) or rows + first.job.request.num_rows > self._rows_ahead
            ):
                return None
            first.numbers.popleft()
            self._owners.move_to_end(key)
            return ref
        return None

    def _is_aside(self, one: _Waiting) -> bool:
        return one.job.pictures[one.numbers[0]].deaths_alone >= ASIDE_DEATHS

    def _is_suspect(self, ref: PictureKey) -> bool:
        found = self._jobs.get(ref[0])
        return found is not None and found.job.pictures[ref[1]].deaths >= SUSPECT_DEATHS

    def _begin(self, ref: PictureKey) -> None:
        with self._lock:
            found = self._jobs.get(ref[0])
            if found is None or ref not in self._in_engine:
                self._in_engine.pop(ref, None)
                return
        try:
            request = self._pictures.request_of(found.job, ref[1])
            handle = self._engine.submit(
                request, owner=found.job.key, on_step=lambda step: self._stepped(ref, step)
            )
        except Exception as error:
            self._settle(ref, found.job, error)
            return
        with self._lock:
            self._in_engine[ref] = handle
            is_dropped = ref[0] not in self._jobs
        if is_dropped:  # between the two
            handle.cancel()
        self._on_change(ref[0])
        handle.future.add_done_callback(lambda future: self._hand_over(ref, found.job, future))

    def _hand_over(self, ref: PictureKey, job: Job, future: Future[Picture]) -> None:
        """Hand a result from the drawing thread to the writer thread, and return at once."""
        try:
            self._writer.submit(self._take_result, ref, job, future)
        except RuntimeError:  # the server has stopped: the picture is drawn again at its next start
            return

    def _take_result(self, ref: PictureKey, job: Job, future: Future[Picture]) -> None:
        error = None if future.cancelled() else future.exception()
        if isinstance(error, CancelledError) or future.cancelled():
            with self._lock:
                if not self._stopping.is_set():
                    self._in_engine.pop(ref, None)
            self._feed()
            return
        self._settle(ref, job, error or future.result())

    def _settle(self, ref: PictureKey, job: Job, outcome: Picture | BaseException) -> None:
        """Write the result of a picture; while the disk does not take it, try again.

        A result that the store rejects for another cause becomes a failure. Where that is rejected too, the picture
        leaves the queue as ``unwritten``, which ``/metrics`` counts, and the next start of the server draws it again.
        """
        rejected = False
        while True:
            try:
                with self._meter.phase("write"):
                    state = self._results.write(ref, job, outcome)
                break
            except StorageError as error:
                if not self._wait_for_storage(error):
                    return
            except Exception as error:
                if rejected:
                    state = "unwritten"
                    break
                rejected, outcome = True, error
        self.storage_problem = None
        self._meter.count("write")
        self.outcomes[state] = self.outcomes.get(state, 0) + 1
        work = self.finished_work.get(state, 0.0) + job.request.work_of_picture(self.native_px)
        self.finished_work[state] = work
        with self._lock:
            self._in_engine.pop(ref, None)
            found = self._jobs.get(ref[0])
            if found is not None:
                self._count(job, -1)
            if found is not None and not self._unfinished(found):
                del self._jobs[ref[0]]
                self._progress.pop(ref[0], None)
        self._on_change(ref[0])
        self._wake()  # not at once: a queue of pictures that all fail would go ever deeper

    def _wait_for_storage(self, error: StorageError) -> bool:
        """Wait before the next attempt; ``False`` when the server stops."""
        self.storage_problem = str(error)
        return not self._stopping.wait(STORAGE_RETRY_S)

    # ---- the drawing thread ----

    def _stepped(self, ref: PictureKey, step: Step) -> None:
        with self._lock:
            found, progress = self._jobs.get(ref[0]), self._progress.get(ref[0])
            if found is None or progress is None:
                return
            before = progress.steps.get(ref[1], (0, 0))[0]
            progress.steps[ref[1]] = (step.done, step.total)
            wanted, had = progress.wanted_previews, progress.previews.get(ref[1], (0, b""))[0]
        per_step = found.job.request.work_of_picture(self.native_px) / step.total
        self.rate.add((step.done - before) * per_step)
        if had < wanted and step.done < step.total and step.done * (wanted + 1) >= (had + 1) * step.total:
            preview = self._pictures.preview_of(step.preview())
            with self._lock:
                progress.previews[ref[1]] = (had + 1, preview)
        self._on_change(ref[0])

    def _unfinished(self, one: _Waiting) -> list[int]:
        return [*one.numbers, *(number for job, number in self._in_engine if job == one.job.id)]

    def _count(self, job: Job, num_pictures: int) -> None:
        left = self._open.get(job.key, 0.0) + num_pictures * job.request.work_of_picture(self.native_px)
        if left > 1e-6:
            self._open[job.key] = left
        else:
            self._open.pop(job.key, None)

    def _work_of(self, job: Job) -> float:
        found = self._jobs[job.id]
        each = job.request.work_of_picture(self.native_px)
        steps = self._progress[job.id].steps
        left = 0.0
        for number in self._unfinished(found):
            done, total = steps.get(number, (0, 1))
            left += each * (1 - done / total)
        return left
