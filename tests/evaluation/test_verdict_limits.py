"""Each limit of the verdict from both sides, and what is exactly on it."""

from dataclasses import replace

import pytest

from detour.evaluation.differences import Difference
from detour.evaluation.prompt_keeping import Following
from detour.evaluation.proof import PixelFigures
from detour.evaluation.verdict import decide
from tests.evaluation.figures import UNMEASURED, accuracy, held_out, learned_evidence


@pytest.mark.parametrize(
    ("chance", "verdict"),
    [(0.001, "learned"), (0.05, "learned"), (0.051, "inconclusive"), (0.14, "inconclusive")],
)
def test_one_case_in_twenty_is_the_most_that_chance_may_have(chance: float, verdict: str) -> None:
    assert decide(replace(learned_evidence(), style_p_value=chance)).name == verdict


@pytest.mark.parametrize(("last", "verdict"), [(0.1099, "learned"), (0.1101, "overfit"), (0.119, "overfit")])
def test_a_tenth_above_the_lowest_loss_is_overfit(last: float, verdict: str) -> None:
    assert decide(replace(learned_evidence(), validation=(0.3, 0.1, last))).name == verdict


@pytest.mark.parametrize(("diversity", "verdict"), [(13.0, "collapsed"), (13.1, "learned")])
def test_exactly_a_quarter_of_the_variety_is_collapsed(diversity: float, verdict: str) -> None:
    spread = replace(learned_evidence(), diversity=diversity, diversity_expected=52.0)
    assert decide(spread).name == verdict


@pytest.mark.parametrize(("share", "verdict"), [(0.25, "learned"), (0.2501, "copies"), (0.4, "copies")])
def test_a_quarter_of_copies_is_allowed_and_no_more(share: float, verdict: str) -> None:
    assert decide(replace(learned_evidence(), copied_share=share)).name == verdict


@pytest.mark.parametrize(("low", "verdict"), [(0.0, "learned"), (0.001, "forgot_prompts")])
def test_a_fall_counts_when_its_interval_lies_above_zero(low: float, verdict: str) -> None:
    fall = Difference(mean=0.2, low=low, high=0.4, pairs=20)
    figures = held_out(kept=accuracy(0.95, colour=0.75))
    assert decide(replace(learned_evidence(), held_out=figures, falls={"colour": fall})).name == verdict


@pytest.mark.parametrize(("low", "verdict"), [(0.0, "learned"), (0.001, "collapsed")])
def test_prompts_are_lost_when_the_interval_lies_above_zero(low: float, verdict: str) -> None:
    lost = Following(adapter=1.0, expected=60.0, lost=Difference(mean=14.0, low=low, high=16.0, pairs=12))
    assert decide(replace(learned_evidence(), following=lost)).name == verdict


@pytest.mark.parametrize(("ceiling", "verdict"), [(0.378, "learned"), (0.382, "inconclusive")])
def test_true_pictures_have_to_be_a_twentieth_nearer_than_the_base_s(ceiling: float, verdict: str) -> None:
    near = held_out(base=0.4, adapter=0.1, ceiling=ceiling)
    assert decide(replace(learned_evidence(), held_out=near)).name == verdict


@pytest.mark.parametrize(
    ("validation", "verdict"),
    [((1.0, 0.9901), "inconclusive"), ((1.0, 0.98), "learned"), ((0.98, 1.0), "inconclusive")],
)
def test_without_a_judge_the_loss_has_to_fall_by_a_hundredth(
    validation: tuple[float, ...], verdict: str
) -> None:
    blind = replace(learned_evidence(), held_out=UNMEASURED, style_p_value=None, validation=validation)
    assert decide(blind).name == verdict


@pytest.mark.parametrize(("mean", "verdict"), [(0.5, "learned"), (0.51, "inconclusive")])
def test_below_fp32_half_a_step_on_average_is_always_allowed(mean: float, verdict: str) -> None:
    small = PixelFigures(mean_abs_diff=1.2, noise_floor=0.0, pictures=4)  # a third of it is 0.4
    half = replace(learned_evidence(), pixels=small, exact=False, merge_diff=9, merge_mean=mean)
    assert decide(half).name == verdict
