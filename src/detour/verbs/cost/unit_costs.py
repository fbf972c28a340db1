"""Seconds of each unit of work, from measured work; and from them the seconds of pictures with other settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from detour.errors import ConfigError
from detour.generation.metering import ADAPTER_BUCKETS, AdapterBucket, Phase, adapter_bucket
from detour.generation.widths import WIDTH_CLASSES, WidthClass
from detour.verbs.cost.measured_work import Clock, MeasuredWork, PassWork

FIXED: tuple[Phase, ...] = ("text", "adapters", "safety", "write")
"""Phases whose seconds a picture takes whatever its steps and size are."""


@dataclass(frozen=True)
class UnitCosts:
    """Seconds that one unit of each kind of work takes on the measured machine.

    Attributes:
        clock: of the seconds.
        units: phase → seconds of one of its units.
        fixed_s: phase → seconds of one picture, as measured.
        passes: (width, adapter bucket) → seconds of a forward pass at area 1.
        row_s: seconds of one row at area 1, with the padding that was measured.
        full_row_s: the same in passes of the widest class without padding.
        serving_s: of one picture, for HTTP and the queue; 0 by the wall clock.
        waste: rows that were drawn for each row of an accepted picture; 1 or more.
        slowdown: wall seconds for each second of ``clock`` while something was done.
    """

    clock: Clock
    units: dict[Phase, float]
    fixed_s: dict[Phase, float]
    passes: dict[tuple[int, AdapterBucket], float]
    row_s: float
    full_row_s: float
    serving_s: float
    waste: float
    slowdown: float

    def seconds_of_picture(self, *, steps: int, rows: int, area: float, full: bool = False) -> float:
        """Seconds of one drawn picture.

        Args:
            steps: denoising steps.
            rows: of each forward pass; 2 with guidance.
            area: as a share of the base's own size; time is taken to grow with it in proportion.
            full: in full batches of the widest class, instead of in batches as they were measured.
        """
        row = self.full_row_s if full else self.row_s
        drawing = steps * (rows * area * row + self.units["other"])
        return drawing + area * self.units["decode"] + sum(self.fixed_s.values()) + self.serving_s

    def pass_s(self, width: WidthClass, num_adapters: int) -> float:
        """Seconds of a forward pass at area 1; where it was not measured, that of the nearest one that was.

        Another group of adapters at the same width goes before another width; between two measured widths, and beyond
        them, seconds are taken to grow linearly.
        """
        bucket = adapter_bucket(num_adapters)
        found = nearest_bucket(self.passes, width, bucket)
        if found is not None:
            return found
        known = [(w, s) for w in WIDTH_CLASSES if (s := nearest_bucket(self.passes, w, bucket)) is not None]
        if len(known) == 1:
            return known[0][1] * width / known[0][0]
        (low, at_low), (high, at_high) = sorted(sorted(known, key=lambda one: abs(one[0] - width))[:2])
        return max(at_low + (at_high - at_low) * (width - low) / (high - low), min(at_low, at_high) / 2)


def nearest_bucket(
    passes: Mapping[tuple[int, AdapterBucket], float], width: int, bucket: AdapterBucket
) -> float | None:
    """Seconds of the passes of a width whose number of adapters is nearest; ``None``: no pass has that width."""
    wanted = ADAPTER_BUCKETS.index(bucket)
    found = [(ADAPTER_BUCKETS.index(one), value) for (w, one), value in passes.items() if w == width]
    return min(found, key=lambda one: abs(one[0] - wanted))[1] if found else None


def costs_of(work: MeasuredWork) -> UnitCosts:
    """Divide measured seconds by measured units.

    Raises:
        ConfigError: nothing was accepted in the measured time, so that nothing can be said of its cost.
    """
    drawn = sum(num for state, num in work.finished.items() if state != "released")
    if not work.accepted or not work.units["denoiser"] or not work.accepted_work:
        raise ConfigError(
            f"{drawn:.0f} pictures were finished and {work.accepted:.0f} accepted in the measured time: there is no "
            "cost of an accepted picture yet. Draw some, and save /metrics again."
        )
    units = {
        phase: work.seconds[phase] / work.units[phase] if work.units[phase] else 0.0 for phase in work.seconds
    }
    passes = {key: one.seconds / one.area for key, one in work.passes.items() if one.area}
    row_s = (work.seconds["denoiser"] + work.seconds["padding"]) / work.units["denoiser"]
    phases_s = sum(work.seconds.values())
    return UnitCosts(
        clock=work.clock,
        units=units,
        fixed_s={phase: work.seconds[phase] / drawn for phase in FIXED},
        passes=passes,
        row_s=row_s,
        full_row_s=_full_row_s(work.passes, row_s),
        serving_s=work.serving_s / drawn,
        waste=max(1.0, work.drawn_work / work.accepted_work),
        slowdown=max(1.0, work.busy_s / phases_s) if phases_s else 1.0,
    )


def _full_row_s(passes: Mapping[tuple[int, AdapterBucket], PassWork], row_s: float) -> float:
    """Seconds of a row in the widest passes, over all groups of adapters; that of all rows where there was none."""
    widest = WIDTH_CLASSES[-1]
    mine = [one for (width, _), one in passes.items() if width == widest]
    area = sum(one.area for one in mine)
    return sum(one.seconds for one in mine) / (area * widest) if area else row_s
