import pytest

from detour.verbs.doctor.prompt_rules import OPPOSITES, examine_prompt


def rules(prompt: str, **values: object) -> set[str]:
    return {finding.rule for finding in examine_prompt(prompt, **values)}


@pytest.mark.parametrize(
    ("rule", "fires", "silent"),
    [
        ("prompt-empty", " (:1.3)", "a"),
        ("lora-tag", "a house <lora:neon:0.8>", "a < b: c > d"),
        ("prompt-editing", "a [cat:dog:0.5] runs", "a [cat], a dog: 0.5"),
        ("prompt-editing", "a [cat|dog]", r"a \[cat|dog\]"),
        ("brackets-open", "a (red house", r"a (red) \(house"),
        ("brackets-open", "a red] house", "a [red] house"),
        ("weight-extreme", "(at 12:30)", "(red:2) [house]"),
        ("weight-extreme", "(red:-1)", "(red:0)"),
        ("prompt-contradicts-itself", "a house by day, stars at night", "a house by day"),
        ("prompt-contradicts-itself", "portrait, close-up, (full body:1.2)", "a knight, close-up"),
    ],
)
def test_a_rule_fires_and_is_silent(rule: str, fires: str, silent: str) -> None:
    assert rule in rules(fires)
    assert rule not in rules(silent)


def test_a_phrase_on_both_sides_is_found_whatever_it_weighs() -> None:
    assert "prompt-against-negative" in rules("a cat, (Soft light:1.2)", negative="blurry, soft  light")
    assert "prompt-against-negative" not in rules("a cat, soft light", negative="soft, light, cat")
    assert "prompt-against-negative" not in rules("a cat", negative="")


def test_the_trigger_is_wanted_as_it_was_trained_in_any_case() -> None:
    assert "trigger-missing" in rules("a robot in the snow", triggers=("sks robot",))
    assert "trigger-missing" not in rules("a photo of SKS  (robot:1.2)", triggers=("sks robot",))
    assert "trigger-missing" not in rules("a robot", triggers=("", " "))
    assert "trigger-missing" not in rules("a robot")


def test_one_of_the_triggers_of_an_adapter_is_enough_and_a_part_of_a_word_is_none() -> None:
    assert "trigger-missing" not in rules("a zwx cat on a beach", triggers=("sks dog, zwx cat",))
    assert "trigger-missing" in rules("a cat on a beach", triggers=("sks dog, zwx cat",))
    assert "trigger-missing" in rules("a cat that asks", triggers=("ask",))
    assert "trigger-missing" not in rules("a photo of <toy>, sks", triggers=("sks, <toy>",))


def test_tokens_beyond_one_window_are_said() -> None:
    assert "prompt-long" in rules("word", tokens=76)
    assert "prompt-long" not in rules("word", tokens=75)


def test_brackets_of_a_plain_prompt_are_brackets() -> None:
    assert rules("a (red:9 house <lora:x:1>", plain=True) == set()


def test_no_phrase_is_its_own_opposite() -> None:
    for some, others in OPPOSITES:
        assert not set(some) & set(others)
        for phrase in (*some, *others):
            assert "prompt-contradicts-itself" not in rules(f"a thing, {phrase}")
