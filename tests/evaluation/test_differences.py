import math

import numpy as np
import pytest

from detour.errors import ConfigError
from detour.evaluation.differences import paired_difference, student_limit


@pytest.mark.parametrize(
    ("degrees", "confidence", "table"),
    [(1, 0.95, 12.706), (2, 0.95, 4.303), (9, 0.95, 2.262), (20, 0.99, 2.845), (120, 0.95, 1.980)],
)
def test_limits_are_those_of_the_printed_tables(degrees: int, confidence: float, table: float) -> None:
    assert student_limit(degrees, confidence) == pytest.approx(table, abs=6e-4)


def test_equal_sets_are_told_apart_as_rarely_as_promised() -> None:
    rng = np.random.default_rng(0)
    alarms = sum(
        paired_difference(list(rng.normal(size=8)), list(rng.normal(size=8))).significant for _ in range(1000)
    )
    assert 30 < alarms < 70


def test_together_many_comparisons_raise_no_more_alarms_than_one() -> None:
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(300):
        same = list(rng.normal(size=8))
        alarms += any(
            paired_difference(list(rng.normal(size=8)), same, comparisons=10).significant for _ in range(10)
        )
    assert alarms < 30


def test_what_pairs_share_is_no_noise() -> None:
    prompts = np.random.default_rng(2).normal(size=10) * 100
    better = paired_difference(list(prompts + 1 + 0.1 * np.arange(10)), list(prompts))
    assert better.significant
    assert better.mean == pytest.approx(1.45)


def test_one_pair_tells_nothing() -> None:
    one = paired_difference([5.0], [1.0])
    assert (one.mean, one.low, one.high, one.significant) == (4.0, -math.inf, math.inf, False)
    with pytest.raises(ConfigError, match="2 and 1 samples do not pair up"):
        paired_difference([1.0, 2.0], [1.0])
