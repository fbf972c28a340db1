"""What a server has done, read from the text of its ``/metrics``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from detour.errors import ConfigError, MissingExtra
from detour.files import read_text
from detour.generation.metering import PHASES, AdapterBucket, Phase

MAX_BYTES = 4 << 20

Clock = Literal["wall", "cpu"]
Labels = tuple[tuple[str, str], ...]
Samples = Mapping[tuple[str, Labels], float]


@dataclass(frozen=True)
class PassWork:
    """Forward passes of one width and one group of adapters.

    Attributes:
        num: passes.
        area: sum of the areas of their pictures; the base's own size is 1.
        seconds: of all of them, padding included.
    """

    num: float
    area: float
    seconds: float


@dataclass(frozen=True)
class MeasuredWork:
    """What a server did between two readings, or since its start.

    Attributes:
        clock: of the seconds.
        seconds: phase → seconds.
        units: phase → units of work (``detour.generation.metering.UNITS``).
        passes: (width, adapter bucket) → forward passes.
        finished: state → pictures.
        work: state → steps x rows x area of those pictures.
        under_way: by how much the work of unfinished pictures has grown.
        busy_s: wall seconds in which something was done.
        idle_s: wall seconds in which nothing was done.
        process_cpu_s: CPU seconds of the whole process.
    """

    clock: Clock
    seconds: dict[Phase, float]
    units: dict[Phase, float]
    passes: dict[tuple[int, AdapterBucket], PassWork]
    finished: dict[str, float]
    work: dict[str, float]
    under_way: float
    busy_s: float
    idle_s: float
    process_cpu_s: float

    @property
    def accepted(self) -> float:
        """Pictures that a client could fetch: drawn and allowed, or released by a person."""
        return self.finished.get("done", 0.0) + self.finished.get("released", 0.0)

    @property
    def drawn_work(self) -> float:
        """Rows x area of all forward passes but for unfinished pictures, padding left out."""
        return self.units["denoiser"] - self.under_way

    @property
    def accepted_work(self) -> float:
        """The part of it that accepted pictures took."""
        return self.work.get("done", 0.0) + self.work.get("released", 0.0)

    @property
    def serving_s(self) -> float:
        """CPU seconds outside the phases: HTTP, the queue, libraries. By the wall clock they are not known, and 0."""
        if self.clock == "wall":
            return 0.0
        return max(0.0, self.process_cpu_s - sum(self.seconds.values()))

    @property
    def utilisation(self) -> float:
        """Share of the time in which something was done."""
        total = self.busy_s + self.idle_s
        return self.busy_s / total if total > 0 else 0.0


def read_metrics(path: Path) -> Samples:
    """Read a saved answer of ``/metrics``.

    Raises:
        ConfigError: it cannot be read, or is no such text.
        MissingExtra: what reads it is not installed.
    """
    return parse_metrics(read_text(path, max_bytes=MAX_BYTES, error=ConfigError), where=str(path))


def parse_metrics(text: str, *, where: str) -> Samples:
    """(name, labels) → value of every sample in Prometheus' text format.

    Args:
        text: of ``/metrics``.
        where: it came from, for messages.

    Raises:
        ConfigError: it is no such text, or not of a server that counts its work.
        MissingExtra: what reads it is not installed.
    """
    try:
        from prometheus_client.parser import text_string_to_metric_families
    except ImportError as error:
        raise MissingExtra(
            "'prometheus_client' is needed to read metrics: pip install 'detour-lora[serve]'."
        ) from error
    try:
        found = {
            (sample.name, tuple(sorted(sample.labels.items()))): float(sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
    except (ValueError, IndexError, KeyError) as error:
        raise ConfigError(
            f"{where}: not the text of /metrics ({error}). Save it with: curl ADDRESS/metrics > {where}"
        ) from error
    if ("detour_busy_seconds_total", ()) not in found:
        raise ConfigError(
            f"{where}: no counters of work. Save /metrics of a ready 'detour serve' of this version."
        )
    return found


def work_of(after: Samples, before: Samples | None = None, *, clock: Clock = "wall") -> MeasuredWork:
    """The work between two readings.

    Args:
        after: the later reading.
        before: the earlier one; ``None``: everything since the start of the server.
        clock: ``wall``, or ``cpu`` if other programs used the machine too.

    Raises:
        ConfigError: the readings are of two lives of the server, or in the wrong order.
    """
    grown = dict(after)
    for key, value in (before or {}).items():
        if key[0].endswith("_total"):
            grown[key] = grown.get(key, 0.0) - value
            if grown[key] < -1e-6:
                raise ConfigError(
                    f"{key[0]} is lower in the later reading: the server was started again, or the files are in the "
                    "wrong order. Take both readings in one life of the server."
                )

    def one(name: str, **labels: str) -> float:
        return grown.get((f"detour_{name}_total", tuple(sorted(labels.items()))), 0.0)

    def by(name: str, label: str) -> dict[str, float]:
        return {dict(labels)[label]: v for (n, labels), v in grown.items() if n == f"detour_{name}_total"}

    passes: dict[tuple[int, AdapterBucket], PassWork] = {}
    for (name, found), num in grown.items():
        if name == "detour_passes_total" and num > 0:
            labels = dict(found)
            passes[int(labels["width"]), labels["adapters"]] = PassWork(  # type: ignore[index]
                num, one("pass_area", **labels), one("pass_seconds", **labels, clock=clock)
            )
    finished, work = by("pictures_finished", "state"), by("work_finished", "state")
    released = one("pictures_decided", decision="released")
    return MeasuredWork(
        clock=clock,
        seconds={phase: one("phase_seconds", phase=phase, clock=clock) for phase in PHASES},
        units={phase: one("phase_units", phase=phase) for phase in PHASES},
        passes=passes,
        finished={**finished, "released": released},
        work=work,
        under_way=_gauge(after, "detour_work_under_way") - _gauge(before or {}, "detour_work_under_way"),
        busy_s=one("busy_seconds"),
        idle_s=one("idle_seconds"),
        process_cpu_s=one("process_cpu_seconds"),
    )


def _gauge(samples: Samples, name: str) -> float:
    return samples.get((name, ()), 0.0)
