from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from detour.evaluation import limits, thresholds
from detour.evaluation.proof import PixelFigures
from detour.evaluation.verdict import BLACK, HEADLINES, NOT_FOLLOWING, Checks, Evidence, decide
from tests.evaluation.figures import FACTS, GRADIENTS, judged_as, learned_evidence

DOCS = Path(__file__).parents[2] / "docs" / "verdicts.md"


def test_what_the_judge_says_of_pictures_is_the_verdict_where_nothing_is_broken() -> None:
    found = decide(learned_evidence())
    assert found.name == "learned"
    assert found.headline == "The style was learned, and nothing was shown to be lost."
    unknown = judged_as("forgot_prompts", reasons=("It lost the colour.",), unknown=("place",))
    lost = decide(replace(learned_evidence(), judged=unknown))
    assert (lost.name, lost.unknown, lost.reasons[0]) == ("forgot_prompts", ("place",), "It lost the colour.")


@pytest.mark.parametrize(
    ("moved", "floor", "verdict"),
    [(0.50, 0.0, "no_effect"), (0.51, 0.0, "learned"), (3.0, 1.0, "no_effect"), (3.01, 1.0, "learned")],
)
def test_an_effect_is_above_half_a_step_and_three_times_the_noise(
    moved: float, floor: float, verdict: str
) -> None:
    pixels = PixelFigures(mean_abs_diff=moved, noise_floor=floor, pictures=4)
    facts = replace(FACTS, effect=moved, noise_floor=floor)
    assert decide(replace(learned_evidence(), moved=pixels, pixels=facts)).name == verdict


def test_causes_are_asked_for_only_where_nothing_changed() -> None:
    asked: list[int] = []

    def causes() -> tuple[str, ...]:
        asked.append(1)
        return ("The learning rate was 0.",)

    assert decide(replace(learned_evidence(), causes=causes)).name == "learned"
    assert not asked
    still = PixelFigures(mean_abs_diff=0.0, noise_floor=0.0, pictures=4)
    verdict = decide(replace(learned_evidence(), moved=still, causes=causes))
    assert verdict.name == "no_effect"
    assert verdict.reasons[1] == "The learning rate was 0."


@pytest.mark.parametrize("merge_diff", [0, 40])
def test_black_pictures_are_a_collapse_of_their_own_whatever_the_merged_ones_look_like(
    merge_diff: int,
) -> None:
    sound = learned_evidence()
    evidence = replace(
        sound,
        judged=judged_as("collapsed", reasons=("3 of the pictures are black.",)),
        pixels=replace(FACTS, black=3),
        checks=replace(sound.checks, merge_diff=merge_diff),
    )
    verdict = decide(evidence)
    assert (verdict.name, verdict.headline) == ("collapsed", BLACK)
    assert decide(replace(evidence, pixels=FACTS)).headline != BLACK


@pytest.mark.parametrize("field", ["reload_diff", "merge_diff"])
def test_a_second_way_to_the_picture_may_differ_by_one_step_and_no_more(field: str) -> None:
    def with_difference(steps: int) -> Evidence:
        evidence = learned_evidence()
        return replace(evidence, checks=replace(evidence.checks, **{field: steps}))

    assert decide(with_difference(1)).name == "learned"
    broken = decide(with_difference(2))
    assert broken.name == "inconclusive"
    assert "by 2 of 255" in broken.reasons[0]


@pytest.mark.parametrize(
    ("moved", "merge_mean", "verdict"),
    [
        (30.0, 9.0, "learned"),
        (30.0, 11.0, "inconclusive"),
        (1.2, 0.5, "learned"),
        (1.2, 0.51, "inconclusive"),
    ],
)
def test_below_fp32_a_merge_may_move_pictures_by_a_third_of_the_effect_or_half_a_step(
    moved: float, merge_mean: float, verdict: str
) -> None:
    pixels = PixelFigures(mean_abs_diff=moved, noise_floor=0.0, pictures=4)
    checks = Checks(exact=False, merge_diff=40, merge_mean=merge_mean)
    assert decide(replace(learned_evidence(), moved=pixels, checks=checks)).name == verdict


@pytest.mark.parametrize(
    "spoiled",
    [{"adapter_tensors_with_gradient": 79}, {"base_tensors_with_gradient": 1}, {"base_unchanged": False}],
)
def test_a_gradient_proof_that_does_not_hold_is_never_learned(spoiled: dict[str, object]) -> None:
    checks = Checks(gradients=GRADIENTS.model_copy(update=spoiled))
    assert decide(replace(learned_evidence(), checks=checks)).name == "inconclusive"


def test_pictures_that_do_not_follow_their_prompts_get_a_headline_of_their_own() -> None:
    collapsed = replace(learned_evidence(), judged=judged_as("collapsed"))
    assert decide(collapsed).headline == NOT_FOLLOWING
    alike = replace(collapsed, pixels=replace(FACTS, diversity=5.0))
    assert decide(alike).headline == HEADLINES["collapsed"]


@pytest.mark.parametrize("verdict", ["learned", "inconclusive", "forgot_prompts"])
def test_flaws_of_the_data_are_said_again_under_every_verdict(verdict: str) -> None:
    flawed = replace(
        learned_evidence(), judged=judged_as(verdict), data=("Of the data: all captions are alike.",)
    )
    assert "Of the data: all captions are alike." in decide(flawed).reasons


def test_the_headline_of_learned_names_what_is_not_known_and_claims_nothing_of_it() -> None:
    def headline(**said: object) -> str:
        return decide(replace(learned_evidence(), judged=judged_as("learned", **said))).headline

    assert headline(unknown=("place",)).endswith("nothing was shown to be lost. Not known: place.")
    drifting = SimpleNamespace(preserved="unknown")
    assert headline(subject=drifting).startswith("The subject was learned")
    assert headline(subject=drifting).endswith("Not known: class.")
    assert "Not known" not in headline(subject=SimpleNamespace(preserved="kept"))
    unjudged = decide(replace(learned_evidence(), judged=None))
    assert (unjudged.name, "was not judged" in unjudged.headline) == ("learned", True)


@pytest.mark.parametrize(
    ("validation", "verdict"),
    [
        ((1.0, 0.9901), "inconclusive"),
        ((1.0, 0.98), "learned"),
        ((0.98, 1.0), "inconclusive"),
        ((), "inconclusive"),
        ((0.3, 0.1, 0.1099), "learned"),
        ((0.3, 0.1, 0.1101), "overfit"),
    ],
)
def test_without_a_judge_the_loss_decides_and_prompts_are_unknown(
    validation: tuple[float, ...], verdict: str
) -> None:
    blind = replace(learned_evidence(), judged=None, pixels=replace(FACTS, validation=validation))
    found = decide(blind)
    assert (found.name, found.unknown) == (verdict, ("prompt",))


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"diversity": 13.0}, "collapsed"),
        ({"diversity": 13.1}, "learned"),
        ({"copied": 0.25}, "learned"),
        ({"copied": 0.2501}, "copies"),
        ({"copied": 0.5, "copied_base": 0.25}, "learned"),
        ({"copied": 0.9, "diversity": 5.0}, "copies"),
    ],
)
def test_without_a_judge_copies_and_one_picture_for_all_are_still_seen(
    changes: dict[str, float], verdict: str
) -> None:
    blind = replace(learned_evidence(), judged=None, pixels=replace(FACTS, **changes))
    assert decide(blind).name == verdict


def test_the_page_on_verdicts_names_every_threshold_with_its_value() -> None:
    page = DOCS.read_text(encoding="utf-8")
    values = {
        name: value for part in (thresholds, limits) for name, value in vars(part).items() if name.isupper()
    }
    missing = [name for name, value in values.items() if f"`{name}` = {value}" not in page]
    assert not missing
