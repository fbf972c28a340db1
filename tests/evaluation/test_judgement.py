from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detour.evaluation import limits
from detour.evaluation.competence import Competence
from detour.evaluation.figure_reading import Reading, answers_of
from detour.evaluation.judgement import judge
from detour.evaluation.next_steps import Doubts, RunFacts, next_step
from detour.evaluation.raw_material import Material, PixelFacts
from detour.evaluation.reading import unit
from tests.evaluation.planted_features import planted, planted_subject

CONFIDENT = {"learned", "forgot_prompts", "collapsed", "class_drifted"}


@pytest.mark.parametrize("vocabulary", [False, True])
def test_a_style_that_took_is_learned_and_nothing_is_unknown(vocabulary: bool) -> None:
    found = judge(planted(vocabulary=vocabulary))
    assert found.verdict == "learned"
    assert {one.answer for one in found.figures.values()} == {"kept"}
    assert found.way is not None
    assert found.way.low is not None
    assert found.way.high is not None
    assert found.way.low < 1 < found.way.high + 0.1


def test_what_the_style_hides_is_unknown_and_never_lost() -> None:
    for seed in range(3):
        found = judge(planted(hidden=(2,), vocabulary=True, seed=seed))
        assert found.verdict == "learned"
        assert found.figures["place"].answer == "unknown"
        assert "place" in found.unknown
        assert found.figures["object"].answer == "kept"
        assert any("place" in reason and "your own pictures" in reason for reason in found.reasons)


def test_planted_losses_are_found_and_named_by_their_part() -> None:
    half = judge(planted(lost=0.5))
    assert half.verdict == "forgot_prompts"
    assert half.figures["prompt"].low < 0.5 < half.figures["prompt"].high
    everything = judge(planted(lost=1.0))
    assert everything.verdict == "collapsed"
    assert "do not follow their prompts" in everything.reasons[0]


def test_a_run_without_effect_says_so_before_anything_else() -> None:
    found = judge(planted(learned=False, effect=0.0))
    assert found.verdict == "no_effect"


def test_a_move_that_is_not_towards_the_references_is_not_learned() -> None:
    found = judge(planted(learned=False))
    assert found.verdict == "inconclusive"
    assert found.next_step.startswith("detour ")


@pytest.mark.parametrize(
    ("pixels", "verdict"),
    [
        (PixelFacts(effect=20, copied=0.5, copied_base=0.1), "copies"),
        (PixelFacts(effect=20, diversity=1.0, diversity_expected=40.0), "collapsed"),
        (PixelFacts(effect=20, black=1, copied=0.5, copied_base=0.1), "collapsed"),
        (PixelFacts(effect=20, validation=(0.3, 0.2, 0.25)), "overfit"),
    ],
)
def test_pixels_and_losses_speak_without_a_judge(pixels: PixelFacts, verdict: str) -> None:
    assert judge(replace(planted(), pixels=pixels)).verdict == verdict
    assert judge(replace(_with_noise(planted(), seed=1), pixels=pixels)).verdict == verdict


def test_captions_that_do_not_fit_their_pictures_are_said_and_stop_the_verdict() -> None:
    found = judge(planted(captions="shuffled"))
    assert found.verdict == "inconclusive"
    assert any("no more than chance" in reason for reason in found.reasons)
    assert found.next_step == "detour data check PICTURES"


@pytest.mark.parametrize(("count", "few"), [(1, "One picture does"), (3, "3 pictures do")])
def test_three_pictures_settle_nothing(count: int, few: str) -> None:
    found = judge(planted(references=count))
    assert found.verdict == "inconclusive"
    assert found.reasons[0] == f"{few} not tell a style or a subject from themselves: name more of them."
    assert found.judge_on_references.p_value is None


def _with_noise(material: Material, *, seed: int) -> Material:
    rng = np.random.default_rng(seed)
    sides = {
        name: unit(rng.normal(size=getattr(material, name).shape))
        for name in ("base", "adapter", "references")
    }
    return replace(material, **sides)


def _with_permuted_texts(material: Material, *, seed: int) -> Material:
    order = np.random.default_rng(seed).permutation(material.prompts.shape[1])
    assert material.captions is not None
    return replace(material, prompts=material.prompts[:, order], captions=material.captions[:, order])


@pytest.mark.parametrize("spoil", [_with_noise, _with_permuted_texts])
def test_a_spoiled_judge_abstains(spoil: object) -> None:
    for seed in range(5):
        for lost in (0.0, 1.0):
            found = judge(spoil(planted(lost=lost, seed=seed), seed=seed))  # type: ignore[operator]
            assert found.verdict == "inconclusive", (seed, lost, found.reasons)
            assert found.unknown == ("prompt",)


def test_where_the_judge_is_blind_another_one_comes_next_and_the_captions_are_not_doubted() -> None:
    found = judge(_with_noise(planted(), seed=1))
    assert found.verdict == "inconclusive"
    assert found.next_step == "detour evaluate RUN --base BASE --pictures PICTURES --judge JUDGE"
    assert not any("agree no more than chance" in reason for reason in found.reasons)


def test_nothing_is_condemned_where_nothing_was_lost() -> None:
    verdicts = [judge(planted(seed=seed)).verdict for seed in range(16)]
    assert not set(verdicts) & {"forgot_prompts", "collapsed"}
    assert verdicts.count("learned") >= 14


def test_a_subject_is_learned_where_it_is_there_and_its_class_stays() -> None:
    found = judge(planted_subject())
    assert found.verdict == "learned"
    assert found.subject is not None
    assert found.subject.preserved == "kept"
    assert found.subject.trigger.p_value <= 0.05


def test_a_class_that_became_the_subject_is_named() -> None:
    found = judge(planted_subject(class_goes=0.9))
    assert found.verdict == "class_drifted"
    assert "--prior" in found.next_step


def test_a_subject_that_is_not_there_is_not_learned() -> None:
    assert judge(planted_subject(taken=False)).verdict == "inconclusive"


def test_the_next_step_is_a_command_with_the_names_of_the_run() -> None:
    run = RunFacts(run="a file", pictures="my chalk", base="sd15", steps=120, rate=0.012)
    forgot = judge(replace(planted(lost=0.5), run=run))
    assert forgot.next_step == "detour train 'my chalk' --base sd15 --steps 60"
    few = judge(replace(planted(references=3), run=run))
    assert few.next_step == "detour data check 'my chalk'"
    nothing = judge(replace(planted(learned=False, effect=0.0), run=run))
    assert nothing.next_step == "detour train 'my chalk' --base sd15 --lr 0.024"
    itself = replace(run, rate=1.0, first_estimate=2e-4)  # Prodigy, whose rate is a factor
    nothing = judge(replace(planted(learned=False, effect=0.0), run=itself))
    assert nothing.next_step == "detour train 'my chalk' --base sd15 --set train.optim.d0=0.0004"
    doubts = Doubts(data=False, judge=False, prompts=40)
    assert next_step("inconclusive", run, doubts) == (
        "detour evaluate 'a file' --base sd15 --pictures 'my chalk' --num-prompts 40"
    )
    short = replace(doubts, short=True)
    assert next_step("inconclusive", run, short) == "detour train 'my chalk' --base sd15 --steps 240"
    assert next_step("inconclusive", run, replace(short, data=True)) == "detour data check 'my chalk'"
    drifted = replace(run, class_prompt="a cat")
    assert next_step("class_drifted", drifted, doubts).endswith("--class-prompt 'a cat' --prior")
    again = next_step("class_drifted", replace(drifted, prior=True), doubts)
    assert again == "detour train 'my chalk' --base sd15 --steps 60"
    whole = replace(run, run="runs/chalk", settings="runs/chalk/resolved.toml")
    assert next_step("inconclusive", whole, doubts) == "detour evaluate runs/chalk --num-prompts 40"
    assert (
        next_step("overfit", whole, doubts)
        == "detour train --config runs/chalk/resolved.toml --ship best_proof"
    )
    asked = replace(whole, prompt="a red cup", adapter="runs/chalk/chalk.safetensors")
    assert next_step("learned", asked, doubts) == (
        "detour generate 'a red cup' --base sd15 --lora runs/chalk/chalk.safetensors --compare"
    )


def test_the_page_on_verdicts_names_every_limit_with_its_value() -> None:
    page = Path("docs/verdicts.md").read_text(encoding="utf-8")
    values = {name: value for name, value in vars(limits).items() if name.isupper()}
    assert [name for name, value in values.items() if f"`{name}` = {value}" not in page] == []


@pytest.mark.parametrize("references", [3, 7])
def test_too_few_references_condemn_no_prompts(references: int) -> None:
    for seed in range(3):
        found = judge(planted(references=references, lost=1.0, seed=seed))
        assert found.figures["prompt"].answer == "unknown"
        assert found.verdict == "inconclusive"


@pytest.mark.parametrize("prompts", [3, 7])
def test_with_few_prompts_the_judge_was_not_tested_and_is_not_called_blind(prompts: int) -> None:
    found = judge(planted(prompts=prompts))
    assert found.verdict == "inconclusive"
    assert found.reasons[0] == (
        f"What the judge can read could not be tested: {prompts} pictures were drawn on each side, "
        "and the test takes 8."
    )
    assert "--judge" not in found.next_step
    assert "--num-prompts" in found.next_step
    assert "could not be tested" in found.figures["prompt"].because


def test_a_style_that_took_too_little_is_trained_on_and_not_asked_again() -> None:
    whole = planted()
    part = replace(whole, adapter=unit(0.6 * whole.base + 0.4 * whole.adapter))
    found = judge(part)
    assert found.verdict == "inconclusive"
    assert found.way is not None
    assert 0.2 < found.way.share < limits.WAY_MIN
    assert found.next_step.startswith("detour train ")


def test_asking_for_more_prompts_of_a_subject_asks_for_more_than_there_were() -> None:
    few = judge(planted_subject(prompts=4))
    assert few.next_step.endswith("--num-prompts 16")  # half of them are the class's: eight of the subject


@pytest.mark.parametrize(("share", "answer"), [(0.65, "unknown"), (0.85, "kept")])
def test_a_word_that_is_found_in_fewer_pictures_than_in_both_controls_is_not_called_kept(
    share: float, answer: str
) -> None:
    able = Competence(pictures=16, margin=9.0, chance=0.0, p_value=0.001)
    # Five objects of sixteen are gone; the others are read far more clearly than in the user's own pictures.
    read = Reading(
        adapter=np.array([-2.0] * 5 + [15.0] * 11), base=np.full(16, 20.0), references=np.full(20, 5.0),
        right={"adapter": share, "base": 1.0, "references": 0.95}, by_word=True,
        on_adapter=able, on_base=able, on_references=able,
    )  # fmt: skip
    found = answers_of({"object": read}, limits.QUICK_MARGIN)["object"]
    assert found.loss < 0
    assert found.p_base <= limits.LOST_P_MAX
    assert found.against_base == pytest.approx(1 - (11 * 15 - 10) / 16 / 20)
    assert found.answer == answer
    assert ("of your own" in found.because) == (answer == "unknown")
    whole = answers_of({"prompt": replace(read, by_word=False)}, limits.QUICK_MARGIN)["prompt"]
    assert whole.answer == "kept"  # which of many captions wins is for people to read


def test_a_blind_judge_says_nothing_of_a_class() -> None:
    found = judge(_with_permuted_texts(planted_subject(class_goes=0.9), seed=0))
    assert found.verdict == "inconclusive"
