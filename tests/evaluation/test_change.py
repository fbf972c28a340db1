import pytest

from detour.errors import ConfigError
from detour.evaluation.change import change_over_prompts


def test_prompts_are_the_samples_and_not_their_seeds() -> None:
    # scipy.stats.t.interval(0.95, 2, loc=1, scale=1 / sqrt(3)): t = 4.302653
    change = change_over_prompts([0, 0, 1, 1, 2, 2], [0] * 6, seeds=2)
    assert (change.mean, change.prompts) == (1, 3)
    assert change.low == pytest.approx(1 - 4.302653 / 3**0.5, abs=1e-4)
    assert change.high == pytest.approx(1 + 4.302653 / 3**0.5, abs=1e-4)
    assert not change.significant
    assert change_over_prompts([1, 2, 1, 2], [0, 0, 0, 0], seeds=1).significant


def test_one_prompt_has_no_interval() -> None:
    change = change_over_prompts([3, 5], [1, 1], seeds=2)
    assert (change.mean, change.low, change.high, change.significant) == (3, None, None, False)


def test_sides_that_do_not_pair_up_are_refused() -> None:
    with pytest.raises(ConfigError):
        change_over_prompts([1, 2], [1], seeds=1)
