"""Where held-out prompts come from."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detour.errors import ConfigError
from detour.evaluation.prompts import (
    PLACES,
    caption_prompts,
    given_prompts,
    new_scenes,
    prompts_sentence,
    subject_words,
    template_prompts,
)

CAPTIONS = ["a red house in the desert", "a photo of a dog, sitting on a beach", "sks, a cup"]


@pytest.mark.parametrize(
    "prompt", ["a red house in the desert", "A red house, in the desert.", "sks, a red house in the desert"]
)
def test_a_training_caption_is_refused_and_named_however_it_is_written(prompt: str) -> None:
    with pytest.raises(ConfigError, match="'a red house in the desert'"):
        given_prompts(["a blue house", prompt], CAPTIONS, "sks")


def test_given_prompts_get_the_trigger_and_are_judged_without_it() -> None:
    mine = given_prompts(["a cat", "a cat", "sks, a bird"], CAPTIONS, "sks")
    assert [(p.prompt, p.plain) for p in mine] == [("sks, a cat", "a cat"), ("sks, a bird", "a bird")]


def test_captions_kept_out_that_training_has_too_are_left_out() -> None:
    kept_out = ["a cup", "a tree", "A tree!", ""]
    assert [p.plain for p in caption_prompts(kept_out, CAPTIONS, "sks")] == ["A tree!"]


def test_templates_put_the_things_of_the_captions_in_places_that_no_caption_has() -> None:
    mine = [p.prompt for p in template_prompts(CAPTIONS, "sks", count=6)]
    assert {prompt.split(", ")[1].rsplit(" on ")[0].rsplit(" in ")[0] for prompt in mine} == {
        "a red house",
        "a dog",
        "a cup",
    }
    assert not any("beach" in prompt or "desert" in prompt for prompt in mine)


def test_places_of_other_captions_are_taken_when_new_ones_run_out_but_never_one_of_the_thing_itself() -> None:
    mine = [p.plain for p in template_prompts(CAPTIONS, "sks", count=999)]
    assert len(mine) == 3 * len(PLACES) - 2
    assert "a dog in a desert" in mine
    assert "a dog on a beach" not in mine
    assert "a red house in a desert" not in mine


def test_a_subject_without_captions_is_its_trigger() -> None:
    assert template_prompts(["sks dog"] * 4, "sks dog", count=1)[0].prompt == "sks dog on a beach"
    assert template_prompts(["a photo of sks dog"], "sks dog", count=1)[0].prompt == "sks dog on a beach"
    assert template_prompts([], "", count=3) == ()


@given(st.lists(st.text(alphabet="abc ,.", max_size=12), max_size=6), st.text(alphabet="ab", max_size=2))
def test_no_held_out_prompt_is_ever_a_training_caption(captions: list[str], trigger: str) -> None:
    for prompt in template_prompts(captions, trigger, count=50):
        given_prompts([prompt.plain], captions, trigger)  # would refuse it


def test_the_sentence_counts_prompts_by_where_they_come_from() -> None:
    mixed = (*caption_prompts(["a tree"], CAPTIONS, ""), *template_prompts(CAPTIONS, "", count=2))
    said = prompts_sentence(mixed)
    assert "1 from captions of pictures that were kept out" in said
    assert "2 made of things that the captions name" in said


@pytest.mark.parametrize(
    ("captions", "trigger", "class_prompts", "called", "of_class"),
    [
        (["a sks cat in the city"], "sks", (), "a sks cat", "a cat"),
        (
            ["sks flower, in a garden", "sks flower, on a table"],
            "sks flower",
            ("a flower",),
            "sks flower",
            "a flower",
        ),
        (["sks, a dog on a sofa"], "sks", ("a dog",), "sks, a dog", "a dog"),
        ([], "sks robot", ("a robot",), "sks robot", "a robot"),
    ],
)
def test_a_subject_and_its_class_are_called_as_captions_and_settings_call_them(
    captions: list[str], trigger: str, class_prompts: tuple[str, ...], called: str, of_class: str
) -> None:
    said = subject_words(captions, trigger, class_prompts)
    assert said is not None
    assert (said.called, said.of_class) == (called, of_class)
    assert said.class_prompt(f"{called} on the moon") == f"{of_class} on the moon"


@pytest.mark.parametrize(("captions", "trigger"), [(["a cat"], ""), (["sks flower"], "sks flower"), ([], "")])
def test_without_a_word_for_the_class_nobody_tells_a_subject_from_it(
    captions: list[str], trigger: str
) -> None:
    assert subject_words(captions, trigger, ()) is None


PLACES3 = (("in the city", "city"), ("on the beach", "beach"), ("in the snow", "snow"))


def scenes(captions: list[str], count: int, **more: object) -> list[str]:
    return [str(scene) for scene in new_scenes(captions, PLACES3, count=count, **more)]  # type: ignore[arg-type]


def test_scenes_are_those_that_no_caption_names_and_no_scene_comes_twice() -> None:
    assert scenes(["a cat in a city"], 3) == ["on the beach", "in the snow"]
    assert scenes(["a city, a beach, snow"], 2) == ["in the city", "on the beach"]
    found = scenes(["a cat in a city"], 16, moments=("at night", "at sunset"))
    assert len(found) == len(set(found)) == 6
    assert not any("city" in one for one in found)
    assert found[:2] == ["on the beach", "in the snow at night"]
    named = scenes(["a city at night, a beach, snow"], 3, moments=("at night", "at sunset"))
    assert named == ["in the city at sunset", "on the beach at sunset", "in the snow at sunset"]


def test_every_fourth_scene_is_something_that_the_subject_does() -> None:
    found = scenes(["a cat"], 8, actions=(("flying", "fly"), ("rolling", "roll")), moments=("at night",))
    assert found[3] == "flying"
    assert found[7] == "rolling"
    assert "flying" not in scenes(["cats that fly"], 8, actions=(("flying", "fly"),))


def test_what_the_subject_does_in_most_captions_is_no_part_of_its_name() -> None:
    said = subject_words(["a sks cat sleeping", "a sks cat sleeping, grey"], "sks", ("a cat",))
    assert said is not None
    assert said.called == "a sks cat"
    tail = subject_words(["cat called sks"] * 2, "sks", ("a cat",))
    assert tail is not None
    assert "sks" in tail.called
