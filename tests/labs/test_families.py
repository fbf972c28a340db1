"""Labs on tiny folders of other families: random weights, so only what no weights decide can be held.

Labs that train a style, read a score or stop at the best of several rows need a base that has learned something.
"""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detour.labs.checking import check
from detour.labs.index import lab_of
from detour.labs.sources import notebook_of
from tests.tiny_base import make_tiny_base
from tests.tiny_flow import make_tiny_flux, make_tiny_sd3

pytest.importorskip("jupytext")
pytestmark = pytest.mark.usefixtures("as_it_was")

FOLDERS: dict[str, Callable[[Path], Path]] = {
    "sd1": make_tiny_base,
    "sd3": make_tiny_sd3,
    "flux": make_tiny_flux,
}


@pytest.mark.slow
@pytest.mark.parametrize(("number", "family"), [(15, "sd1"), (18, "sd3"), (18, "flux")])
def test_a_solution_passes_every_check_on_a_tiny_folder(number: int, family: str, tmp_path: Path) -> None:
    folder = FOLDERS[family](tmp_path / family)
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for cell in notebook_of(lab_of(number), "solution", base=str(folder)).cells:
            if cell.cell_type == "code":
                exec(compile(cell.source, f"lab {number}", "exec"), names)
    results = check.results(number)
    assert results
    assert all(results.values())
