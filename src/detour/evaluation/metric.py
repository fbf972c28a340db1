"""Declares a further figure of an evaluation in one file: name, unit, direction, controls, and its line of the
page.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

from torch import Tensor

from detour.evaluation.compared import Compared, Side
from detour.evaluation.pixels import Pictures


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Pictures and features that a metric may read; they are prompt-major.

    Attributes:
        pictures: side → uint8 (prompts × seeds, H, W, 3), pictures of the new prompts.
        picture_features: side → (prompts × seeds, D) the judge's features of them, rows of length one.
        texts: (prompts, D) features of the prompts, without the trigger.
        own: (M, D) features of the user's own pictures; ``None`` where there are none.
        seeds: pictures of each prompt.
    """

    pictures: Mapping[Side, Pictures]
    picture_features: Mapping[Side, Tensor]
    texts: Tensor
    own: Tensor | None
    seeds: int


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A figure that every evaluation measures on all sides, beside its controls.

    Attributes:
        name: in ``evaluation.json`` under ``metrics``, in ``--require`` and on the page.
        text: what it is, and what its scale says.
        unit: of the figure; empty for a share.
        better: which direction is better.
        controls: sides that it is read beside, and why.
        measure: every side's figure; ``None`` where it cannot be measured.
        form: how the figure is written on the page.
    """

    name: str
    text: str
    unit: str
    better: Literal["higher", "lower", "neither"]
    controls: Mapping[str, str]
    measure: Callable[[Measured], Compared | None]
    form: str = ".3f"

    @property
    def note(self) -> str:
        """Line under the figure on the page."""
        direction = {"higher": "Higher is better.", "lower": "Lower is better.", "neither": ""}[self.better]
        beside = "; ".join(f"{side}: {why}" for side, why in self.controls.items())
        return f"{self.name}: {self.text}. {direction} Beside it, {beside}."


@cache
def all_metrics() -> tuple[Metric, ...]:
    """Collect ``METRIC`` of every module in :mod:`detour.evaluation.metrics` by name; a new file is a new figure."""
    from detour.evaluation import metrics

    names = [one.name for one in pkgutil.iter_modules(metrics.__path__)]
    found = [importlib.import_module(f"{metrics.__name__}.{name}").METRIC for name in names]
    return tuple(sorted(found, key=lambda one: str(one.name)))
