import numpy as np
import pytest

from detour.errors import ConfigError
from detour.evaluation import limits
from detour.evaluation.keeping import Keeping, compare, settle


def _scores(mean: float, count: int, rng: np.random.Generator) -> np.ndarray:
    return rng.normal(mean, 4.0, count)


def test_no_loss_is_called_lost_no_more_often_than_its_level() -> None:
    rng = np.random.default_rng(0)
    answers = []
    for _ in range(200):
        expected = _scores(12, 16, rng)
        adapter = expected + rng.normal(0, 3, 16)
        answers.append(compare(adapter, expected, _scores(12, 20, rng), margin=0.4).answer)
    assert answers.count("lost") <= 200 * 3 * limits.LOST_P_MAX
    assert answers.count("kept") >= 170


def test_a_loss_of_half_is_found_in_nine_of_ten_and_its_limits_hold_it() -> None:
    rng = np.random.default_rng(1)
    found = []
    for _ in range(60):
        base = _scores(12, 16, rng)
        found.append(compare(base * 0.5 + rng.normal(0, 2, 16), base, _scores(12, 20, rng), margin=0.4))
    assert sum(one.answer == "lost" for one in found) >= 54
    assert sum(one.low <= 0.5 <= one.high for one in found) >= 48


def test_a_loss_has_to_show_against_the_references_too() -> None:
    rng = np.random.default_rng(2)
    base, hidden = _scores(20, 16, rng), _scores(8, 20, rng)
    found = compare(_scores(8, 16, rng), base, hidden, margin=0.4)
    assert found.answer != "lost"
    assert compare(_scores(8, 16, rng), base, None, margin=0.4).p_lost == 1.0


def test_an_unknown_says_how_many_prompts_would_settle_it() -> None:
    rng = np.random.default_rng(3)
    base, ceiling = _scores(12, 8, rng), _scores(12, 30, rng)
    wide = compare(base * 0.8 + rng.normal(0, 6, 8), base, ceiling, margin=0.4)
    assert wide.answer == "unknown"
    assert wide.needed is not None
    assert wide.needed > 8


def test_sides_that_do_not_pair_up_are_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be compared"):
        compare(np.zeros(3), np.zeros(4), None, margin=0.4)


def test_several_figures_share_their_error_as_holm_says() -> None:
    def alone(p_lost: float) -> Keeping:
        return Keeping(answer="lost", loss=0.5, low=0.1, high=0.9, p_lost=p_lost, p_kept=0.9,
                       against_base=0.5, p_base=p_lost, prompts=16)  # fmt: skip

    settled = settle({"a": alone(0.009), "b": alone(0.002), "c": alone(0.6)})
    assert [settled[name].p_lost for name in "abc"] == pytest.approx([0.018, 0.006, 0.6])
    assert [settled[name].answer for name in "abc"] == ["unknown", "lost", "unknown"]
    assert "chance" in settled["a"].because
