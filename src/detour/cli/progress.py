"""Progress on a terminal as a bar, elsewhere as plain lines."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from detour.printing import printable

if TYPE_CHECKING:
    from detour.verbs.progress import Progress, ProgressFn

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def shown(*, quiet: bool = False) -> Iterator["ProgressFn"]:
    """A progress function for a recipe: a bar on a terminal, a line every ten seconds in a log, or nothing."""
    if quiet:
        yield lambda _: None
    elif sys.stderr.isatty():
        with _bar() as report:
            yield report
    else:
        yield PlainLines(sys.stderr)


def figures_text(report: "Progress") -> str:
    """``loss 0.1234 · lr 1.0e-04``."""
    return " · ".join(f"{name} {value:.4g}" for name, value in report.figures.items())


def duration_text(seconds: float) -> str:
    """``3 s``, ``2 min 05 s``, ``1 h 02 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class PlainLines:
    """One line when a stage begins and ends, and every ten seconds between; every note."""

    def __init__(self, stream: TextIO, seconds_between: float = SECONDS_BETWEEN_LINES) -> None:
        self._stream = stream
        self._seconds_between = seconds_between
        self._stage = ""
        self._last = 0.0

    def __call__(self, report: "Progress") -> None:
        now = time.monotonic()
        finished = report.total > 0 and report.done >= report.total
        if report.note:
            self._write(printable(report.note, keep="\n"))
        if report.stage == self._stage and not finished and now - self._last < self._seconds_between:
            return
        if report.note and not report.total:
            return
        self._stage, self._last = report.stage, now
        count = f" {report.done}/{report.total}" if report.total else ""
        left = f" · {duration_text(report.seconds_left)} left" if report.seconds_left and not finished else ""
        figures = f" · {figures_text(report)}" if report.figures else ""
        self._write(f"{report.stage}{count}{figures}{left}")

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


@contextmanager
def _bar() -> Iterator["ProgressFn"]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TextColumn("[dim]{task.fields[left]}"),
    )
    with Bars(*columns, console=console) as bar:
        tasks: dict[str, TaskID] = {}

        def report(now: "Progress") -> None:
            if now.note:
                console.print(printable(now.note, keep="\n"), markup=False, highlight=False)
            if not now.total:
                return
            if now.stage not in tasks:
                tasks[now.stage] = bar.add_task(now.stage, total=now.total, figures="", left="")
            left = (
                f"{duration_text(now.seconds_left)} left" if now.seconds_left and now.done < now.total else ""
            )
            bar.update(
                tasks[now.stage], completed=now.done, total=now.total, figures=figures_text(now), left=left
            )

        yield report
