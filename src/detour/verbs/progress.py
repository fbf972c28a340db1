"""What long work reports while it runs; whoever called decides how to show it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A moment of long work, as it is reported to the caller.

    Attributes:
        stage: what is being done, in words a user understands ("training", "drawing held-out pictures").
        done: finished units.
        total: units in this stage.
        seconds_left: estimate for this stage, ``None`` while unknown.
        figures: numbers worth showing, e.g. ``{"loss": 0.12, "lr": 1e-4}``.
        note: a sentence worth keeping (a sample sheet was written, a checkpoint saved); empty most of the time.
    """

    stage: str
    done: int = 0
    total: int = 0
    seconds_left: float | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


ProgressFn = Callable[[Progress], None]


def silent(_: Progress) -> None:
    """The progress function of callers who do not want any."""
