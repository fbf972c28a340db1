"""What drawing costs, by phase: seconds, and the units of work that they were spent on.

Counters only grow. Whoever wants the cost of a while takes a reading before and after it (``Meter.reading``).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

Phase = Literal["text", "adapters", "denoiser", "padding", "decode", "safety", "write", "other"]
"""What a second is spent on.

``text``: encoding prompts. ``adapters``: reading and preparing them. ``denoiser``: rows of pictures.
``padding``: rows that fill a pass up to its width. ``decode``: latents to pixels. ``safety``: checks of requests and
pictures. ``write``: files and their records. ``other``: sampler steps and the rest of the drawing thread.
"""
PHASES: tuple[Phase, ...] = get_args(Phase)

UNITS: dict[Phase, str] = {
    "text": "texts encoded",
    "adapters": "adapters prepared",
    "denoiser": "rows x area",
    "padding": "rows x area",
    "decode": "area decoded",
    "safety": "pictures checked",
    "write": "pictures written",
    "other": "steps of pictures",
}
"""What the units of each phase count; area 1 is a picture of the base's own size."""

AdapterBucket = Literal["0", "1", "2", "3-4", "5-8", "9+"]
ADAPTER_BUCKETS: tuple[AdapterBucket, ...] = get_args(AdapterBucket)


def adapter_bucket(num: int) -> AdapterBucket:
    """Group of a number of different adapters in one forward pass; few groups keep ``/metrics`` short."""
    bounds = (0, 1, 2, 4, 8)
    return next(
        (name for name, most in zip(ADAPTER_BUCKETS, bounds, strict=False) if num <= most),
        ADAPTER_BUCKETS[-1],
    )


@dataclass(frozen=True)
class Seconds:
    """Time by two clocks.

    Attributes:
        wall: as it passed, waiting for a busy machine included.
        cpu: that the measuring thread itself computed.
    """

    wall: float = 0.0
    cpu: float = 0.0

    def __add__(self, other: Seconds) -> Seconds:
        """Sum by both clocks."""
        return Seconds(self.wall + other.wall, self.cpu + other.cpu)

    def __mul__(self, factor: float) -> Seconds:
        """Share of the time by both clocks."""
        return Seconds(self.wall * factor, self.cpu * factor)


@dataclass(frozen=True)
class Passes:
    """Forward passes of one width and one group of adapters.

    Attributes:
        num: passes.
        area: sum of the areas of their pictures; the base's own size is 1.
        seconds: of all of them, padding included.
    """

    num: int = 0
    area: float = 0.0
    seconds: Seconds = field(default_factory=Seconds)


@dataclass(frozen=True)
class Reading:
    """What a meter showed at one moment.

    Attributes:
        uptime_s: seconds since the meter was made.
        busy_s: wall seconds in which at least one phase ran.
        process_cpu_s: CPU seconds of the whole process, all threads.
        seconds: phase → time.
        units: phase → units of work (``UNITS``).
        passes: (width, adapter bucket) → forward passes.
    """

    uptime_s: float
    busy_s: float
    process_cpu_s: float
    seconds: dict[Phase, Seconds]
    units: dict[Phase, float]
    passes: dict[tuple[int, AdapterBucket], Passes]


@dataclass
class _Frame:
    """A phase of a thread that has begun; inner phases are taken out of it."""

    began: Seconds
    spent: Seconds = field(default_factory=Seconds)


class Meter:
    """Counts seconds and units of each phase, on any thread; a phase inside another is not counted twice."""

    def __init__(self, native_px: int = 1, *, wait: Callable[[], None] = lambda: None) -> None:
        """Make a meter that shows nothing yet.

        Args:
            native_px: side of a picture whose area counts 1.
            wait: returns when a device has finished the forward pass that it was given.
        """
        self.native_px, self._wait = native_px, wait
        self._lock, self._local = threading.Lock(), threading.local()
        self._seconds: dict[Phase, Seconds] = {}
        self._units: dict[Phase, float] = {}
        self._passes: dict[tuple[int, AdapterBucket], Passes] = {}
        self._made, self._cpu_before = time.perf_counter(), time.process_time()
        self._running, self._busy_s, self._busy_since = 0, 0.0, 0.0

    def area(self, width_px: int, height_px: int) -> float:
        """Area of a picture as a share of the base's own size."""
        return width_px * height_px / self.native_px**2

    def count(self, phase: Phase, units: float = 1.0) -> None:
        """Add units of work to a phase."""
        with self._lock:
            self._units[phase] = self._units.get(phase, 0.0) + units

    @contextlib.contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """A block whose time belongs to a phase, but for that of phases inside it."""
        self._begin()
        try:
            yield
        finally:
            spent = self._end()
            with self._lock:
                self._add(name, spent)

    @contextlib.contextmanager
    def forward_pass(self, *, width: int, rows: int, adapters: int, area: float) -> Iterator[None]:
        """A block that is one forward pass of the denoiser; its time is divided between pictures and padding by rows.

        Args:
            width: rows of the pass.
            rows: rows of pictures among them.
            adapters: different adapters in it.
            area: of each picture.
        """
        self._begin()
        try:
            yield
            self._wait()
        finally:
            spent, key = self._end(), (width, adapter_bucket(adapters))
            with self._lock:
                self._add("denoiser", spent * (rows / width), rows * area)
                self._add("padding", spent * (1 - rows / width), (width - rows) * area)
                had = self._passes.get(key, Passes())
                self._passes[key] = replace(
                    had, num=had.num + 1, area=had.area + area, seconds=had.seconds + spent
                )

    def reading(self) -> Reading:
        """All counters as they are now."""
        with self._lock:
            now = time.perf_counter()
            return Reading(
                uptime_s=now - self._made,
                busy_s=self._busy_s + (now - self._busy_since if self._running else 0.0),
                process_cpu_s=time.process_time() - self._cpu_before,
                seconds={name: self._seconds.get(name, Seconds()) for name in PHASES},
                units={name: self._units.get(name, 0.0) for name in PHASES},
                passes=dict(self._passes),
            )

    def _add(self, name: Phase, spent: Seconds, units: float = 0.0) -> None:
        self._seconds[name] = self._seconds.get(name, Seconds()) + spent
        self._units[name] = self._units.get(name, 0.0) + units

    def _stack(self) -> list[_Frame]:
        if not hasattr(self._local, "frames"):
            self._local.frames = []
        frames: list[_Frame] = self._local.frames
        return frames

    def _begin(self) -> None:
        frames, now = self._stack(), _now()
        if frames:
            frames[-1].spent += _between(frames[-1].began, now)
        else:
            with self._lock:
                self._running += 1
                if self._running == 1:
                    self._busy_since = now.wall
        frames.append(_Frame(now))

    def _end(self) -> Seconds:
        frames, now = self._stack(), _now()
        frame = frames.pop()
        if frames:
            frames[-1].began = now
        else:
            with self._lock:
                self._running -= 1
                if not self._running:
                    self._busy_s += now.wall - self._busy_since
        return frame.spent + _between(frame.began, now)


def _now() -> Seconds:
    return Seconds(time.perf_counter(), time.thread_time())


def _between(before: Seconds, after: Seconds) -> Seconds:
    return Seconds(after.wall - before.wall, after.cpu - before.cpu)
