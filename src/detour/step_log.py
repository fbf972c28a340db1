"""``metrics.jsonl``: what every step of a run measured, one JSON object a line.

One reader for whoever resumes, proves or shows a run: a damaged line is no traceback, and is not dropped in silence.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NUMBERS = ("loss", "val_loss", "grad_norm", "lr", "d_lr", "seconds", "loss_scale")
"""Keys whose values are numbers wherever they stand."""


@dataclass(frozen=True)
class StepLog:
    """The lines of a log.

    Attributes:
        lines: those that can be used, in their order; each has a whole ``step``.
        damaged: numbers (from 1) of the lines that cannot.
        exists: whether there is a log at all.
    """

    lines: Sequence[dict[str, Any]] = ()
    damaged: Sequence[int] = ()
    exists: bool = False

    def problem(self, path: Path) -> str:
        """A sentence on damaged lines; empty without any."""
        if not self.damaged:
            return ""
        numbers = ", ".join(map(str, self.damaged[:5])) + (" …" if len(self.damaged) > 5 else "")
        many = "lines are" if len(self.damaged) > 1 else "line is"
        return f"{path}: {len(self.damaged)} {many} damaged and not counted (line {numbers})."


def read_step_log(path: Path) -> StepLog:
    """Read a log; a last line without its end is what a kill leaves, and is dropped when it is no whole object.

    Raises:
        OSError: it is there and cannot be read.
    """
    if not path.exists():
        return StepLog()
    lines, damaged = [], []
    *whole, rest = path.read_bytes().split(b"\n")
    for number, text in enumerate([*whole, rest], start=1):
        line = _parsed(text)
        if line is not None:
            lines.append(line)
        elif text.strip() and number <= len(whole):
            damaged.append(number)
    return StepLog(lines, damaged, exists=True)


def _parsed(text: bytes) -> dict[str, Any] | None:
    """The object of one line; ``None`` where it is not one that a run writes."""
    try:
        line = json.loads(text)
    except ValueError:  # no JSON, or no UTF-8
        return None
    if not isinstance(line, dict) or not _is_whole(line.get("step")):
        return None
    return line if all(_is_number(line[key]) for key in NUMBERS if key in line) else None


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _is_number(value: Any) -> bool:
    """Infinities and NaN are numbers: a run that diverges writes them."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) < 2**53
