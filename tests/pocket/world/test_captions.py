"""Captions say what the scene holds and nothing else."""

from __future__ import annotations

import pytest

from detour.pocket.world import (
    HOUSE,
    NAMED_STYLES,
    Style,
    caption,
    compose_scene,
    plain_prompt,
    style_words,
    training_example,
)
from tests.pocket.world.reading import read

EXAMPLES = [training_example(5, index) for index in range(3000)]


def test_captions_name_the_scene_s_things_with_their_colours_and_place() -> None:
    for example in EXAMPLES:
        reading, scene = read(example.caption), example.scene
        pairs = tuple((thing.colour, thing.kind) for thing in scene.things)
        assert sorted(reading.things) == sorted(pairs)
        assert (reading.relation, reading.place) == (scene.relation, scene.place)
        if scene.relation in ("above", "on"):
            assert reading.things == pairs


def test_an_unsaid_sky_is_day_and_a_said_sky_is_the_scene_s() -> None:
    skies = [(read(e.caption).sky, e.scene.sky) for e in EXAMPLES]
    assert all(said == (true if said is not None else said) for said, true in skies)
    assert all(true == "by day" for said, true in skies if said is None)
    assert 0.4 < sum(said is not None for said, _ in skies) / len(skies) < 0.7


def test_style_words_are_true_of_the_style_and_absent_from_the_house_style() -> None:
    for example in EXAMPLES:
        said = read(example.caption).style_words
        assert set(said) <= set(style_words(example.style))
        assert (len(said) == 0) == (example.style == HOUSE)
        assert len(said) <= 3


def test_every_relation_is_said_in_several_ways() -> None:
    things = [("house", "red"), ("cat", "blue")]
    for relation in ("beside", "above", "on"):
        scene = compose_scene(seed=1, things=things, place="desert", relation=relation)
        assert len({caption(scene, HOUSE, seed=seed) for seed in range(60)}) >= 6


def test_captions_stay_true_when_the_picture_is_flipped() -> None:
    assert not any(word in e.caption.split() for e in EXAMPLES for word in ("left", "right"))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"outline_px": 3.0}, "thick outlines"),
        ({"outline_px": 0.0}, "no outlines"),
        ({"outline_px": 2.0, "ink": "black"}, "black outlines"),
        ({"texture": "dots", "texture_amount": 0.6}, "dotted"),
        ({"saturation": 0.7, "lightness": 0.15}, "pastel colours"),
        ({"cell_px": 4.0}, "pixelated"),
    ],
)
def test_a_style_has_the_word_of_what_was_done(change: dict[str, float | str], word: str) -> None:
    assert style_words(Style(**change)) == (word,)  # type: ignore[arg-type]


def test_every_named_style_can_be_put_in_words() -> None:
    assert all(style_words(style) for style in NAMED_STYLES.values())


def test_plain_prompt_agrees_with_article_and_place() -> None:
    assert plain_prompt("house", "red", "desert") == "a red house in the desert"
    assert plain_prompt("cat", "orange", "beach") == "an orange cat on the beach"
