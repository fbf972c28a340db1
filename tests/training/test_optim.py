from itertools import pairwise

import pytest

from detour.training.optim import learning_rate


def rates(kind: str, warmup: int = 4, steps: int = 20) -> list[float]:
    return [learning_rate(s, peak=1.0, kind=kind, warmup=warmup, steps=steps) for s in range(steps)]  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["constant", "cosine", "linear"])
def test_warmup_rises_to_the_peak_without_a_wasted_first_step(kind: str) -> None:
    values = rates(kind)
    assert 0 < values[0] < values[1] < values[2] < values[3] < values[4]
    assert values[4] == 1.0


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_rate_falls_to_almost_zero_at_the_last_step(kind: str) -> None:
    values = rates(kind)
    assert all(later < earlier for earlier, later in pairwise(values[4:]))
    assert 0 < values[-1] < 0.1


def test_constant_stays_at_the_peak() -> None:
    assert set(rates("constant")[4:]) == {1.0}


def test_no_warmup_starts_at_the_peak_and_all_warmup_does_not_divide_by_zero() -> None:
    assert rates("cosine", warmup=0)[0] == 1.0
    assert len(rates("cosine", warmup=20)) == 20
