"""Lessons on tiny folders of every family: random weights and seconds a lab, where pocket takes a minute."""

import contextlib
import io
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from detour.bases.embedded import EMBEDDED
from detour.evaluation.judge import judge_of
from detour.labs.index import Lab
from detour.labs.sources import Kind, notebook_of
from tests.tiny_base import make_tiny_base, make_tiny_sd2, make_tiny_sdxl
from tests.tiny_flow import make_tiny_flux, make_tiny_sd3

FAMILIES: Mapping[str, Callable[[Path], Path]] = {
    "sd1": make_tiny_base,
    "sd2": make_tiny_sd2,
    "sdxl": make_tiny_sdxl,
    "sd3": make_tiny_sd3,
    "flux": make_tiny_flux,
}
"""Family → what writes a folder of it."""


@cache
def judge() -> str:
    """Folder of pocket's judge, which tiny folders lack one of their own for."""
    return str(judge_of(EMBEDDED["pocket"].folder))


def cells(lab: Lab, kind: Kind, base: Path | None) -> list[str]:
    """Sources of the code cells of a notebook, on a folder with pocket's judge or as it is handed out."""
    named = {} if base is None else {"base": str(base), "judge": judge()}
    return [cell.source for cell in notebook_of(lab, kind, **named).cells if cell.cell_type == "code"]


def run(source: str, names: dict[str, Any]) -> None:
    """Run one cell and throw its output away."""
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(source, "cell", "exec"), names)
