"""Figures beside their controls."""

import pytest
from pydantic import ValidationError

from detour.evaluation.compared import Compared


def test_a_figure_without_the_base_beside_it_is_refused() -> None:
    with pytest.raises(ValidationError, match="base"):
        Compared.of({"adapter": 0.2})


def test_a_figure_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValidationError):
        Compared.of({"adapter": float("nan"), "base": 0.1})


def test_each_side_lands_in_its_own_field() -> None:
    sides = Compared.of({"adapter": 1, "base": 2, "rate_zero": 3, "shuffled": 4}, ceiling=5)
    assert sides == Compared(adapter=1, base=2, rate_zero=3, shuffled=4, ceiling=5)
