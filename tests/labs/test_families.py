"""Labs on tiny folders of other families: random weights, so only what no weights decide can be held.

The folders bring no judge of their own; pocket's is named, as ``detour labs run --judge`` does.
"""

import re
from pathlib import Path
from typing import Any

import pytest

from detour.bases.families import FAMILIES as BASES
from detour.labs.checking import check
from detour.labs.index import LABS, RAN, Lab
from tests.labs.tiny_labs import FAMILIES, cells, run

pytest.importorskip("jupytext")
pytestmark = pytest.mark.usefixtures("as_it_was")

CLAIMED = [pytest.param(lab, family, id=f"{lab.name}-{family}") for lab in LABS for family in lab.families]
"""Every lab on every family that docs/labs says it runs on."""


def test_labs_that_call_the_unet_with_text_states_alone_take_no_base_that_reads_more() -> None:
    by_hand = [
        lab for lab in LABS if re.search(r"^[^#\n]*encoder_hidden_states=", lab.source.read_text(), re.M)
    ]
    assert by_hand
    assert not [lab.name for lab in by_hand for name in lab.families if BASES[name].reads_sizes]


def test_only_labs_that_take_a_family_are_said_to_have_run_on_it() -> None:
    assert set(RAN) == set(BASES)
    for family, numbers in RAN.items():
        assert set(numbers) <= {lab.number for lab in LABS if family in lab.families}


@pytest.mark.slow
@pytest.mark.parametrize(("lab", "family"), CLAIMED)
def test_a_solution_passes_every_check_on_a_tiny_folder(lab: Lab, family: str, tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    for source in cells(lab, "solution", FAMILIES[family](tmp_path / family)):
        run(source, names)
    results = check.results(lab.number)
    assert results
    assert all(results.values())
