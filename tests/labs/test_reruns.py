"""Notebooks as people use them: every cell twice, everything once more, and on after a cell that failed."""

import contextlib
import io
from typing import Any

import pytest

from detour.errors import TaskOpen
from detour.labs.checking import check
from detour.labs.index import LABS, Lab
from detour.labs.sources import notebook_of

pytest.importorskip("jupytext")
pytestmark = pytest.mark.usefixtures("as_it_was")
QUICK = (1,)
"""Labs that run once in seconds."""
PARAMETERS = [
    pytest.param(lab, id=lab.name, marks=() if lab.number in QUICK else pytest.mark.slow) for lab in LABS
]


def cells(lab: Lab, kind: Any) -> list[str]:
    """Sources of the code cells of a notebook."""
    return [cell.source for cell in notebook_of(lab, kind).cells if cell.cell_type == "code"]


def run(source: str, names: dict[str, Any]) -> None:
    """One cell, its output thrown away."""
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(source, "cell", "exec"), names)


@pytest.mark.slow
@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_every_cell_twice_and_everything_again(lab: Lab) -> None:
    names: dict[str, Any] = {}
    for source in cells(lab, "solution"):
        run(source, names)
        run(source, names)
    for source in cells(lab, "solution"):
        run(source, names)
    assert all(check.results(lab.number).values())


@pytest.mark.parametrize("lab", PARAMETERS)
def test_a_failed_cell_is_done_right_and_the_notebook_goes_on(lab: Lab) -> None:
    """Each answer is handed in empty first, as "run all" of the exercise does, and the right one after it."""
    names: dict[str, Any] = {}
    failed = 0
    for empty, right in zip(cells(lab, "exercise"), cells(lab, "solution"), strict=True):
        if empty != right and "check(" in empty:
            with pytest.raises(TaskOpen):
                run(empty, names)
            failed += 1
        run(right, names)
    assert failed >= len(check.results(lab.number)) // 2
    assert all(check.results(lab.number).values())
