"""Composition: layouts from words and a seed."""

from __future__ import annotations

import pytest

from detour.errors import ConfigError
from detour.pocket.world import VOCABULARY, compose_scene

PAIR = [("cat", "red"), ("car", "blue")]


def test_a_scene_is_a_function_of_its_words_and_seed() -> None:
    first, second, other = (compose_scene(seed=s, things=[("cat", "red")], place="city") for s in (1, 1, 2))
    assert first == second
    assert first != other


def test_an_unsaid_sky_is_day() -> None:
    assert compose_scene(seed=1, things=[("cat", "red")], place="city").sky == VOCABULARY.skies[0]


def test_single_things_are_larger_than_each_of_two() -> None:
    for seed in range(30):
        single = compose_scene(seed=seed, things=[("cat", "red")], place="city").things[0]
        assert 0.45 <= single.size <= 0.68
        for relation in VOCABULARY.relations:
            pair = compose_scene(seed=seed, things=PAIR, place="city", relation=relation).things
            assert all(0.34 <= thing.size <= 0.46 for thing in pair)


def test_the_first_thing_of_above_and_on_is_the_upper_one() -> None:
    for seed in range(30):
        for relation in ("above", "on"):
            first, second = compose_scene(seed=seed, things=PAIR, place="city", relation=relation).things
            assert first.y < second.y
            assert first.kind == "cat"


def test_beside_comes_in_both_orders_so_that_a_flip_says_nothing() -> None:
    scenes = [compose_scene(seed=s, things=PAIR, place="city", relation="beside") for s in range(30)]
    assert {scene.things[0].x < scene.things[1].x for scene in scenes} == {True, False}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"things": [("horse", "red")], "place": "city"}, "horse"),
        ({"things": [("cat", "mauve")], "place": "city"}, "mauve"),
        ({"things": [("cat", "red")], "place": "sea"}, "sea"),
        ({"things": [("cat", "red")], "place": "city", "sky": "in the fog"}, "fog"),
        ({"things": [("cat", "red")], "place": "city", "relation": "on"}, "one thing"),
        ({"things": PAIR, "place": "city"}, "None"),
        ({"things": [], "place": "city"}, "found 0"),
    ],
)
def test_words_that_the_world_lacks_are_refused_by_name(arguments: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        compose_scene(seed=0, **arguments)  # type: ignore[arg-type]
