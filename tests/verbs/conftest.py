"""What tests of verbs share."""

from collections.abc import Iterator
from typing import Any

import pytest

from detour.evaluation import report

DRAWN: list[str] = []


@pytest.fixture(scope="module", autouse=True)
def one_loss_chart() -> Iterator[None]:
    """The loss chart of the first run's report stands in the later ones: drawing it takes a fifth of a short run.

    tests/evaluation/test_report.py and test_plots.py have tests of what it shows.
    """
    draw = report.loss_chart

    def drawn_once(*curves: Any) -> str:
        if not DRAWN:
            DRAWN.append(draw(*curves))
        return DRAWN[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "loss_chart", drawn_once)
        yield
