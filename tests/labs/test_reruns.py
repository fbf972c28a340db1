"""Notebooks as people use them: every cell twice, everything once more, backwards, and on after a cell that failed.

On a tiny folder, since what a second run trips over (names that are gone, an adapter that is still attached) does not
depend on the weights. The slow target does it on the lab's own base.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from detour.errors import TaskOpen
from detour.labs.checking import check
from detour.labs.index import LABS, Lab
from tests.labs.tiny_labs import FAMILIES, cells, run

pytest.importorskip("jupytext")
pytestmark = pytest.mark.usefixtures("as_it_was")
QUICK = (2,)
"""Labs that take seconds on a tiny folder."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny folder for the labs of a UNet, and one for lab 18."""
    place = tmp_path_factory.mktemp("reruns")
    return {family: FAMILIES[family](place / family) for family in ("sd1", "sd3")}


def _cases() -> Iterator[Any]:
    for lab in LABS:
        slow = () if lab.number in QUICK else (pytest.mark.slow,)
        yield pytest.param(lab, "sd3" if lab.number == 18 else "sd1", id=f"{lab.name}-tiny", marks=slow)
        yield pytest.param(lab, None, id=lab.name, marks=pytest.mark.slow)


CASES = pytest.mark.parametrize(("lab", "family"), tuple(_cases()))


def assert_done(lab: Lab) -> None:
    """Every task of the lab is passed."""
    results = check.results(lab.number)
    assert results
    assert all(results.values()), results


@CASES
def test_every_cell_twice_and_everything_again(
    lab: Lab, family: str | None, folders: dict[str, Path]
) -> None:
    names: dict[str, Any] = {}
    solution = cells(lab, "solution", folders[family] if family else None)
    for source in solution:
        run(source, names)
        run(source, names)
    for source in solution:
        run(source, names)
    assert_done(lab)


@CASES
def test_cells_run_again_from_the_last_to_the_first(
    lab: Lab, family: str | None, folders: dict[str, Path]
) -> None:
    names: dict[str, Any] = {}
    solution = cells(lab, "solution", folders[family] if family else None)
    for source in [*solution, *reversed(solution)]:
        run(source, names)
    assert_done(lab)


@CASES
def test_a_failed_cell_is_done_right_and_the_notebook_goes_on(
    lab: Lab, family: str | None, folders: dict[str, Path]
) -> None:
    """Each answer is handed in empty first, as "run all" of the exercise does, and the right one after it."""
    names: dict[str, Any] = {}
    failed = 0
    base = folders[family] if family else None
    for empty, right in zip(cells(lab, "exercise", base), cells(lab, "solution", base), strict=True):
        if empty != right and "check(" in empty:
            with pytest.raises(TaskOpen):
                run(empty, names)
            failed += 1
        run(right, names)
    assert failed >= len(check.results(lab.number)) // 2
    assert_done(lab)
