"""Labs on tiny folders of other families: random weights, so only what no weights decide can be held.

The folders bring no judge of their own; pocket's is named, as ``detour labs run --judge`` does.
"""

from pathlib import Path
from typing import Any

import pytest

from detour.labs.checking import check
from detour.labs.index import LABS, Lab
from tests.labs.tiny_labs import FAMILIES, cells, run

pytest.importorskip("jupytext")
pytestmark = pytest.mark.usefixtures("as_it_was")

CLAIMED = [pytest.param(lab, family, id=f"{lab.name}-{family}") for lab in LABS for family in lab.families]
"""Every lab on every family that docs/labs says it runs on."""


@pytest.mark.slow
@pytest.mark.parametrize(("lab", "family"), CLAIMED)
def test_a_solution_passes_every_check_on_a_tiny_folder(lab: Lab, family: str, tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    for source in cells(lab, "solution", FAMILIES[family](tmp_path / family)):
        run(source, names)
    results = check.results(lab.number)
    assert results
    assert all(results.values())
