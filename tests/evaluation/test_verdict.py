from dataclasses import replace
from pathlib import Path

import pytest

from detour.evaluation import thresholds
from detour.evaluation.differences import Difference, paired_difference
from detour.evaluation.prompt_keeping import FALL_CONFIDENCE, Following
from detour.evaluation.proof import PixelFigures
from detour.evaluation.verdict import Evidence, decide
from tests.evaluation.figures import GRADIENTS, UNMEASURED, accuracy, held_out, learned_evidence

DOCS = Path(__file__).parents[2] / "docs" / "verdicts.md"


def test_a_halved_style_distance_with_kept_prompts_is_learned() -> None:
    assert decide(learned_evidence()).name == "learned"


@pytest.mark.parametrize(
    ("moved", "floor", "verdict"),
    [(0.50, 0.0, "no_effect"), (0.51, 0.0, "learned"), (3.0, 1.0, "no_effect"), (3.01, 1.0, "learned")],
)
def test_an_effect_is_above_half_a_step_and_three_times_the_noise(
    moved: float, floor: float, verdict: str
) -> None:
    pixels = PixelFigures(mean_abs_diff=moved, noise_floor=floor, pictures=4)
    assert decide(replace(learned_evidence(), pixels=pixels)).name == verdict


def test_no_effect_passes_its_causes_on() -> None:
    still = PixelFigures(mean_abs_diff=0.0, noise_floor=0.0, pictures=4)
    verdict = decide(replace(learned_evidence(), pixels=still, causes=("The learning rate was 0.",)))
    assert verdict.name == "no_effect"
    assert "The learning rate was 0." in verdict.reasons


@pytest.mark.parametrize("field", ["reload_diff", "merge_diff"])
def test_a_second_way_to_the_picture_may_differ_by_one_step_and_no_more(field: str) -> None:
    assert decide(replace(learned_evidence(), **{field: 1})).name == "learned"
    broken = decide(replace(learned_evidence(), **{field: 2}))
    assert broken.name == "inconclusive"
    assert "by 2 of 255" in broken.reasons[0]


@pytest.mark.parametrize(("merge_mean", "verdict"), [(9.0, "learned"), (11.0, "inconclusive")])
def test_below_fp32_a_merge_may_move_pictures_by_a_third_of_the_effect(
    merge_mean: float, verdict: str
) -> None:
    moved = PixelFigures(mean_abs_diff=30.0, noise_floor=0.0, pictures=4)
    half = replace(learned_evidence(), pixels=moved, exact=False, merge_diff=40, merge_mean=merge_mean)
    assert decide(half).name == verdict


@pytest.mark.parametrize(
    "spoiled",
    [{"adapter_tensors_with_gradient": 79}, {"base_tensors_with_gradient": 1}, {"base_unchanged": False}],
)
def test_a_gradient_proof_that_does_not_hold_is_never_learned(spoiled: dict[str, object]) -> None:
    gradients = GRADIENTS.model_copy(update=spoiled)
    assert decide(replace(learned_evidence(), gradients=gradients)).name == "inconclusive"


def fallen(lost: int, prompts: int) -> Evidence:
    """A run whose pictures lack the colour in so many of the prompts; the base's have it in all."""
    hits = [True] * (prompts - lost) + [False] * lost
    fall = paired_difference([True] * prompts, hits, confidence=FALL_CONFIDENCE)
    share = 1 - lost / prompts
    figures = held_out(kept=accuracy(0.95, colour=share))
    return replace(learned_evidence(), held_out=figures, falls={"colour": fall})


def test_ten_points_below_what_could_be_is_kept_and_eleven_is_forgotten() -> None:
    assert decide(fallen(10, 100)).name == "learned"
    verdict = decide(fallen(11, 100))
    assert verdict.name == "forgot_prompts"
    assert "The colour asked for is drawn in 89%" in verdict.reasons[0]


def test_a_fall_that_may_be_chance_is_said_and_decides_nothing() -> None:
    verdict = decide(fallen(2, 8))
    assert verdict.name == "learned"
    assert any("8 prompts that may be chance" in reason for reason in verdict.reasons)
    assert decide(fallen(4, 8)).name == "forgot_prompts"


def test_overfit_names_the_cause_before_what_it_did_to_the_prompts() -> None:
    verdict = decide(replace(fallen(50, 100), validation=(0.2, 0.1, 0.2)))
    assert verdict.name == "overfit"
    assert "colour" in verdict.reasons[1]


def test_a_loss_that_rises_on_pictures_kept_out_is_overfit() -> None:
    assert decide(replace(learned_evidence(), validation=(0.20, 0.10, 0.12))).name == "overfit"
    assert decide(replace(learned_evidence(), validation=(0.20, 0.10, 0.105))).name == "learned"


def test_one_picture_for_every_prompt_is_collapsed() -> None:
    assert decide(replace(learned_evidence(), diversity=10.0)).name == "collapsed"


def test_pictures_that_have_nothing_to_do_with_their_prompts_are_collapsed_however_much_they_differ() -> None:
    noise = Following(adapter=1.0, expected=60.0, lost=Difference(mean=14.0, low=12.0, high=16.0, pairs=12))
    verdict = decide(replace(learned_evidence(), following=noise, diversity=90.0, validation=(0.1, 1.0)))
    assert verdict.name == "collapsed"
    unsure = replace(noise, lost=Difference(mean=14.0, low=-1.0, high=29.0, pairs=12))
    assert decide(replace(learned_evidence(), following=unsure)).name == "learned"


def test_copies_name_the_cause_before_the_collapse_that_they_are() -> None:
    assert decide(replace(learned_evidence(), diversity=5.0, copied_share=0.9)).name == "copies"


def test_pictures_that_lie_on_training_pictures_are_copies() -> None:
    assert decide(replace(learned_evidence(), copied_share=0.3)).name == "copies"


def test_copies_that_the_base_draws_as_often_are_chance() -> None:
    assert decide(replace(learned_evidence(), copied_share=0.5, copied_share_base=0.25)).name == "learned"
    assert decide(replace(learned_evidence(), copied_share=0.5, copied_share_base=0.2)).name == "copies"


@pytest.mark.parametrize(
    ("adapter", "ceiling", "verdict"),
    [(0.25, 0.1, "learned"), (0.26, 0.1, "inconclusive"), (0.25, 0.0, "inconclusive"), (0.2, 0.0, "learned")],
)
def test_half_of_the_way_to_true_pictures_is_learned(adapter: float, ceiling: float, verdict: str) -> None:
    went = replace(learned_evidence(), held_out=held_out(base=0.4, adapter=adapter, ceiling=ceiling))
    assert decide(went).name == verdict


@pytest.mark.parametrize("ceiling", [0.245, 0.25, 0.3])
def test_true_pictures_no_nearer_than_the_base_s_tell_nothing(ceiling: float) -> None:
    few = decide(replace(learned_evidence(), held_out=held_out(base=0.25, adapter=0.05, ceiling=ceiling)))
    assert few.name == "inconclusive"
    assert "cannot be told" in " ".join(few.reasons)


def test_a_halved_distance_that_may_be_chance_is_inconclusive() -> None:
    chance = decide(replace(learned_evidence(), style_p_value=0.2))
    assert chance.name == "inconclusive"
    assert "ask more prompts" in " ".join(chance.reasons)


def test_without_a_judge_the_loss_on_kept_out_pictures_decides() -> None:
    blind = replace(learned_evidence(), held_out=UNMEASURED, style_p_value=None)
    assert decide(blind).name == "learned"
    assert decide(replace(blind, validation=(0.2, 0.199))).name == "inconclusive"
    assert decide(replace(blind, validation=())).name == "inconclusive"


def test_every_finding_is_named_and_the_first_rule_decides() -> None:
    verdict = decide(replace(learned_evidence(), diversity=5.0, copied_share=0.9, reload_diff=40))
    assert verdict.name == "inconclusive"
    text = " ".join(verdict.reasons)
    assert "reloaded" in text
    assert "same picture" in text
    assert "are copies of training pictures" in text


def test_the_page_on_verdicts_names_every_threshold_with_its_value() -> None:
    page = DOCS.read_text(encoding="utf-8")
    values = {name: value for name, value in vars(thresholds).items() if name.isupper()}
    missing = [name for name, value in values.items() if f"`{name}` = {value}" not in page]
    assert not missing
