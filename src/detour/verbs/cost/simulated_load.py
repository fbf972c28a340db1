"""A load that is played against measured unit costs: the queue and the batches as the server makes them, no drawing."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detour.errors import ConfigError
from detour.files import read_text
from detour.generation.bounds import KEPT_TEXTS, MAX_ROWS
from detour.generation.metering import Phase
from detour.generation.widths import WIDTH_CLASSES, WidthClass, width_for
from detour.verbs.cost.unit_costs import UnitCosts

MAX_TRACE_BYTES = 64 << 20


@dataclass(frozen=True)
class AskedPicture:
    """One picture of a load.

    Attributes:
        at_s: seconds after the beginning at which its job arrives.
        job: number of its job; its pictures get one width class.
        prompt: its text.
        steps: denoising steps.
        rows: of each forward pass.
        area: as a share of the base's own size.
        adapters: their names.
    """

    at_s: float
    job: int
    prompt: str
    steps: int
    rows: int
    area: float
    adapters: tuple[str, ...] = ()


@dataclass
class SimulatedLoad:
    """What a load takes.

    Attributes:
        pictures: that were drawn.
        seconds: phase → seconds of the clock of the unit costs.
        serving_s: seconds for HTTP and the queue.
        span_s: wall seconds from the first arrival to the last picture.
        passes: width → forward passes.
    """

    pictures: int = 0
    seconds: dict[Phase, float] = field(default_factory=dict)
    serving_s: float = 0.0
    span_s: float = 0.0
    passes: dict[int, int] = field(default_factory=dict)

    @property
    def busy_s(self) -> float:
        """Seconds of all phases."""
        return sum(self.seconds.values()) + self.serving_s

    @property
    def seconds_a_picture(self) -> float:
        """Seconds of one picture, without waiting."""
        return self.busy_s / self.pictures


@dataclass(eq=False)
class _Drawn:
    """A picture that is being drawn."""

    asked: AskedPicture
    width: WidthClass
    left: int


Lanes = dict[tuple[int, float], list[_Drawn]]


class _Machine:
    """One drawing thread and its writer, with the queues of ``generation.scheduling`` and the server."""

    def __init__(self, costs: UnitCosts, prepared: Collection[str]) -> None:
        self.costs, self.load, self.now = costs, SimulatedLoad(), 0.0
        self.waiting: deque[_Drawn] = deque()
        self.lanes: Lanes = {}
        self._texts: dict[str, None] = {}
        self._prepared = set(prepared)

    def spend(self, phase: Phase, seconds: float) -> None:
        self.load.seconds[phase] = self.load.seconds.get(phase, 0.0) + seconds
        self.now += seconds * self.costs.slowdown

    def accept(self, job: Sequence[AskedPicture]) -> None:
        """Queue the pictures of a job; its width class is fixed by what is open."""
        area, rows = job[0].area, sum(one.rows for one in job)
        open_ones = [*self.waiting, *(one for lane in self.lanes.values() for one in lane)]
        rows += sum(one.asked.rows for one in open_ones if one.asked.area == area)
        self.waiting.extend(_Drawn(one, width_for(rows), one.steps) for one in job)

    def rest(self) -> None:
        """Forget what is kept between pictures only while something is drawn."""
        self._texts.clear()

    def turn(self) -> None:
        """Begin what has room, and let one batch go one step further."""
        while self.waiting and self._has_room(first := self.waiting[0]):
            self.waiting.popleft()
            self.lanes.setdefault((first.width, first.asked.area), []).append(first)
            self._begin(first.asked)
        key = next(iter(self.lanes))
        members = self.lanes.pop(key)
        self._pass(members, key[0], key[1])
        left = [one for one in members if one.left]
        if left:
            self.lanes[key] = left  # behind the others
        for one in members:
            if not one.left:
                self._finish(one.asked)

    def _has_room(self, one: _Drawn) -> bool:
        begun = sum(d.asked.rows for lane in self.lanes.values() for d in lane)
        lane = self.lanes.get((one.width, one.asked.area), [])
        own = sum(d.asked.rows for d in lane)
        return begun + one.asked.rows <= MAX_ROWS and own + one.asked.rows <= one.width

    def _begin(self, asked: AskedPicture) -> None:
        for text in ("", asked.prompt)[-asked.rows :]:
            if text not in self._texts:
                self.spend("text", self.costs.units["text"])
                self._texts[text] = None
                if len(self._texts) > KEPT_TEXTS:
                    del self._texts[next(iter(self._texts))]
        for name in asked.adapters:
            if name not in self._prepared:
                self._prepared.add(name)
                self.spend("adapters", self.costs.units["adapters"])

    def _pass(self, members: Sequence[_Drawn], width: int, area: float) -> None:
        rows = sum(one.asked.rows for one in members)
        num = len({name for one in members for name in one.asked.adapters})
        known = next(one for one in WIDTH_CLASSES if one == width)
        seconds = self.costs.pass_s(known, num) * area
        self.spend("denoiser", seconds * rows / width)
        self.spend("padding", seconds * (1 - rows / width))
        self.spend("other", self.costs.units["other"] * len(members))
        self.load.passes[width] = self.load.passes.get(width, 0) + 1
        for one in members:
            one.left -= 1

    def _finish(self, asked: AskedPicture) -> None:
        self.spend("decode", self.costs.units["decode"] * asked.area)
        self.spend("safety", self.costs.fixed_s["safety"])
        self.spend("write", self.costs.units["write"])
        self.load.serving_s += self.costs.serving_s
        self.now += self.costs.serving_s * self.costs.slowdown
        self.load.pictures += 1


def simulate_load(
    pictures: Sequence[AskedPicture], costs: UnitCosts, *, prepared: Collection[str] = ()
) -> SimulatedLoad:
    """Play a load: one client, every picture accepted, nothing refused for a full queue.

    Args:
        pictures: in the order of their arrival, at least one; those of a job beside each other.
        costs: seconds of the units.
        prepared: names of the adapters that the server has prepared before; the others are prepared once.

    Raises:
        ConfigError: there are no pictures.
    """
    if not pictures:
        raise ConfigError("the trace has no pictures.")
    jobs: deque[list[AskedPicture]] = deque()
    for one in pictures:
        if not jobs or jobs[-1][0].job != one.job:
            jobs.append([])
        jobs[-1].append(one)
    machine = _Machine(costs, prepared)
    machine.now = begin = pictures[0].at_s
    while jobs or machine.waiting or machine.lanes:
        if not machine.waiting and not machine.lanes:
            machine.rest()
            machine.now = max(machine.now, jobs[0][0].at_s)
        while jobs and jobs[0][0].at_s <= machine.now:
            machine.accept(jobs.popleft())
        machine.turn()
    machine.load.span_s = machine.now - begin
    return machine.load


def read_trace(path: Path, *, native_px: int) -> list[AskedPicture]:
    """Read a trace of jobs: one JSON object a line, with ``at_s`` and the ``body`` of ``POST /v1/jobs``.

    Args:
        path: the file.
        native_px: side of the base's own size.

    Raises:
        ConfigError: it cannot be read, or a line is no such object.
    """
    found: list[AskedPicture] = []
    lines = read_text(path, max_bytes=MAX_TRACE_BYTES, error=ConfigError).splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            one: Any = json.loads(line)
            found += pictures_of(float(one["at_s"]), one["body"], job=number, native_px=native_px)
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f'{path}, line {number}: no job of a trace ({error}). A line is {{"at_s": 0.5, "body": {{…}}}}, '
                "with the body of POST /v1/jobs."
            ) from error
    return sorted(found, key=lambda one: (one.at_s, one.job))


def pictures_of(at_s: float, body: Mapping[str, Any], *, job: int, native_px: int) -> list[AskedPicture]:
    """Pictures of the body of ``POST /v1/jobs``; without a guidance scale it is taken to be guided."""
    sides = (int(body.get("width") or native_px), int(body.get("height") or native_px))
    scale = body.get("guidance_scale")
    return [
        AskedPicture(
            at_s=at_s,
            job=job,
            prompt=str(prompt),
            steps=int(body.get("steps", 25)),
            rows=2 if scale is None or scale > 1 else 1,
            area=sides[0] * sides[1] / native_px**2,
            adapters=tuple(str(one["name"]) for one in body.get("adapters", ())),
        )
        for prompt in body["prompts"]
        for _ in range(int(body.get("count", 1)))
    ]
