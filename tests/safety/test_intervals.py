import pytest

from detour.safety.intervals import clopper_pearson


@pytest.mark.parametrize(
    ("hits", "trials"), [(0, 300), (3, 300), (297, 300), (300, 300), (1, 1), (7, 19), (40, 5000)]
)
def test_intervals_are_those_of_the_beta_distribution(hits: int, trials: int) -> None:
    beta = pytest.importorskip("scipy.stats").beta
    low, high = clopper_pearson(hits, trials)
    assert low == pytest.approx(beta.ppf(0.025, hits, trials - hits + 1) if hits else 0.0, abs=1e-9)
    assert high == pytest.approx(beta.ppf(0.975, hits + 1, trials - hits) if hits < trials else 1.0, abs=1e-9)


def test_no_trials_say_nothing() -> None:
    assert clopper_pearson(0, 0) == (0.0, 1.0)
