"""What is said about the training pictures."""

import numpy as np
import pytest

from detour.pocket.pretrain.texts import false_scene, phrase, with_unknown_word
from detour.pocket.world import HELD_OUT, NAMED_STYLES, VOCABULARY, place_phrase, training_example

COUNT = 400


@pytest.fixture(scope="module")
def said() -> list[str]:
    groups = [phrase(1, index) for index in range(COUNT)]
    return [text for true, false, _ in groups for text in (*true, *(t for wrong in false for t in wrong))]


def test_nothing_held_out_is_named_even_in_false_captions(said: list[str]) -> None:
    forbidden = [f"{colour} {kind}" for kind in HELD_OUT.subjects for colour in VOCABULARY.colours]
    forbidden += [name for name in HELD_OUT.styles if name in NAMED_STYLES]
    for text in said:
        assert not any(words in text for words in forbidden), text
        for kind, colour, place in HELD_OUT.combinations:
            assert not (f"{colour} {kind}" in text and place_phrase(place) in text), text


def test_false_scenes_differ_in_one_fact_or_two_swapped_colours() -> None:
    rng = np.random.default_rng(0)
    for index in range(COUNT):
        scene = training_example(1, index).scene
        wrong = false_scene(scene, rng)
        pairs = list(zip(scene.things, wrong.things, strict=True))
        kinds = sum(a.kind != b.kind for a, b in pairs)
        colours = sum(a.colour != b.colour for a, b in pairs)
        place = int(scene.place != wrong.place)
        assert (kinds, colours, place) in {(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 2, 0)}


def test_what_is_said_is_a_function_of_seed_and_index() -> None:
    assert phrase(1, 7) == phrase(1, 7)
    assert phrase(1, 7) != phrase(2, 7)


def test_an_unknown_word_leaves_the_others_in_their_order() -> None:
    text = "a red house in the desert"
    for seed in range(20):
        words = with_unknown_word(text, np.random.default_rng(seed)).split(" ")
        assert len(words) == 7
        assert any(words[:i] + words[i + 1 :] == text.split(" ") for i in range(7))
