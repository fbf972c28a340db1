"""The training stream draws what it says, and never what was held out."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest

from detour.pocket.world import (
    HELD_OUT,
    HOUSE,
    VOCABULARY,
    Example,
    held_out_prompts,
    plain_prompt,
    training_example,
)

COUNT = 8_000


@pytest.fixture(scope="module")
def stream() -> list[Example]:
    return [training_example(11, index) for index in range(COUNT)]


def test_stream_never_draws_a_held_out_combination(stream: list[Example]) -> None:
    drawn = {(t.kind, t.colour, e.scene.place) for e in stream for t in e.scene.things}
    assert not drawn & HELD_OUT.combinations
    num_all = len(VOCABULARY.objects) * len(VOCABULARY.colours) * len(VOCABULARY.places)
    assert len(drawn) == num_all - len(HELD_OUT.combinations)


def test_stream_never_draws_a_held_out_subject(stream: list[Example]) -> None:
    assert {t.kind for e in stream for t in e.scene.things} == set(VOCABULARY.objects)


def test_stream_never_enters_a_held_out_style_region(stream: list[Example]) -> None:
    assert {HELD_OUT.style_of(e.style) for e in stream} == {None}


def test_an_example_depends_on_seed_and_index_alone(stream: list[Example]) -> None:
    assert training_example(11, 1234) == stream[1234]
    assert training_example(12, 1234) != stream[1234]


def test_stream_is_the_one_that_the_weights_were_trained_on(stream: list[Example]) -> None:
    """A change of the stream makes the shipped model card untrue: train again, then renew this digest."""
    captions = "\n".join(example.caption for example in stream[:1000])
    assert hashlib.sha256(captions.encode()).hexdigest()[:16] == "7193bf48c77df08f"


def test_two_in_five_have_two_things_and_half_are_in_the_house_style(stream: list[Example]) -> None:
    assert sum(len(e.scene.things) == 2 for e in stream) / COUNT == pytest.approx(0.4, abs=0.02)
    assert sum(e.style == HOUSE for e in stream) / COUNT == pytest.approx(0.5, abs=0.02)


def test_words_are_uniform_apart_from_what_was_held_out(stream: list[Example]) -> None:
    singles = [e.scene for e in stream if len(e.scene.things) == 1]
    for words, drawn in (
        (VOCABULARY.objects, Counter(s.things[0].kind for s in singles)),
        (VOCABULARY.colours, Counter(s.things[0].colour for s in singles)),
        (VOCABULARY.places, Counter(s.place for s in singles)),
    ):
        assert set(drawn) == set(words)
        assert max(drawn.values()) < 1.5 * min(drawn.values())


def test_a_tenth_of_the_combinations_is_held_out() -> None:
    num_all = len(VOCABULARY.objects) * len(VOCABULARY.colours) * len(VOCABULARY.places)
    assert len(HELD_OUT.combinations) == round(num_all / 10)
    kinds, colours, places = (set(words) for words in zip(*HELD_OUT.combinations, strict=True))
    assert kinds <= set(VOCABULARY.objects)
    assert colours <= set(VOCABULARY.colours)
    assert places <= set(VOCABULARY.places)
    assert HELD_OUT.subjects == VOCABULARY.held_out_subjects


def test_held_out_prompts_cover_every_combination_before_any_comes_again() -> None:
    prompts = held_out_prompts(len(HELD_OUT.combinations) + 5, seed=3)
    first = {(p.object, p.colour, p.place) for p in prompts[: len(HELD_OUT.combinations)]}
    assert first == HELD_OUT.combinations
    assert all(p.prompt == plain_prompt(p.object, p.colour, p.place) for p in prompts)
    assert all((p.scene.things[0].kind, p.scene.place) == (p.object, p.place) for p in prompts)


def test_held_out_prompts_for_subjects_name_only_held_out_subjects() -> None:
    assert {p.object for p in held_out_prompts(60, seed=1, kind="subject")} == set(HELD_OUT.subjects)
