"""Labs on tiny folders of other families: random weights, so only what no weights decide can be held.

The folders bring no judge of their own; pocket's is named, as ``detour labs run --judge`` does.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from detour.labs.checking import check
from detour.labs.index import lab_of
from tests.labs.tiny_labs import FAMILIES, cells, run

pytest.importorskip("jupytext")
pytestmark = pytest.mark.usefixtures("as_it_was")

LABS_OF: Mapping[str, Sequence[int]] = {
    "sd1": (1, 2, 5, 6, 7, 9, 10, 11, 12, 15, 16, 19),
    "sd3": (18,),
    "flux": (18,),
}
"""Family → labs whose solution passes every check on a tiny folder of it."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "family"), [(number, family) for family, labs in LABS_OF.items() for number in labs]
)
def test_a_solution_passes_every_check_on_a_tiny_folder(number: int, family: str, tmp_path: Path) -> None:
    lab = lab_of(number)
    names: dict[str, Any] = {}
    for source in cells(lab, "solution", FAMILIES[family](tmp_path / family)):
        run(source, names)
    results = check.results(number)
    assert results
    assert all(results.values())
