"""The training stream with random access, and prompts for what is held out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from detour.pocket.world.captions import caption, plain_prompt
from detour.pocket.world.held_out import HELD_OUT, Combination
from detour.pocket.world.scene import Scene, compose_scene
from detour.pocket.world.style import HOUSE, Style
from detour.pocket.world.style_space import random_style
from detour.pocket.world.vocabulary import DAY, VOCABULARY

TWO_THINGS_SHARE = 0.4
DAY_SHARE = 0.5
HOUSE_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class Example:
    """One picture of the training stream, not drawn yet, with its true caption."""

    scene: Scene
    style: Style
    caption: str


@dataclass(frozen=True, kw_only=True)
class PromptedScene:
    """A prompt for one thing, the facts that its picture must show, and a scene that shows them."""

    prompt: str
    object: str
    colour: str
    place: str
    scene: Scene


def training_example(seed: int, index: int) -> Example:
    """Example ``index`` of the stream, a pure function of both numbers that never contains anything held out.

    Kinds, colours, places and relations are uniform apart from the held-out combinations; a scene with two
    things has two kinds in two colours.
    """
    rng = np.random.default_rng([seed, index, 0x7EA1])
    # Drawn before what may be rejected: two things are rejected twice as often as one.
    num_things = 2 if rng.random() < TWO_THINGS_SHARE else 1
    while True:
        things, place = _draw_words(rng, num_things)
        if all((kind, colour, place) not in HELD_OUT.combinations for kind, colour in things):
            break
    sky = DAY if rng.random() < DAY_SHARE else VOCABULARY.skies[int(rng.integers(1, len(VOCABULARY.skies)))]
    relation = (
        VOCABULARY.relations[int(rng.integers(len(VOCABULARY.relations)))] if len(things) == 2 else None
    )
    scene = compose_scene(
        seed=int(rng.integers(2**31)), things=things, place=place, sky=sky, relation=relation
    )
    style = HOUSE if rng.random() < HOUSE_SHARE else random_style(rng)
    return Example(scene=scene, style=style, caption=caption(scene, style, seed=int(rng.integers(2**31))))


def held_out_prompts(
    count: int, *, seed: int, kind: Literal["combination", "subject"] = "combination"
) -> list[PromptedScene]:
    """Prompts that the training stream cannot have drawn, each of one thing by day.

    Every combination comes once before any comes again.

    Args:
        count: how many.
        seed: draws the order and the scenes.
        kind: ``combination`` is object, colour and place known but never met together; ``subject`` is a thing
            that was never drawn, in every colour and place.
    """
    combinations: list[Combination] = sorted(HELD_OUT.combinations)
    if kind == "subject":
        combinations = [
            (subject, colour, place)
            for subject in HELD_OUT.subjects
            for colour in VOCABULARY.colours
            for place in VOCABULARY.places
        ]
    rng = np.random.default_rng([seed, 0x4E1D])
    prompts: list[PromptedScene] = []
    while len(prompts) < count:
        for i in rng.permutation(len(combinations))[: count - len(prompts)]:
            subject, colour, place = combinations[int(i)]
            scene = compose_scene(seed=int(rng.integers(2**31)), things=[(subject, colour)], place=place)
            prompt = plain_prompt(subject, colour, place)
            prompts.append(
                PromptedScene(prompt=prompt, object=subject, colour=colour, place=place, scene=scene)
            )
    return prompts


def _draw_words(rng: np.random.Generator, num_things: int) -> tuple[list[tuple[str, str]], str]:
    kinds = rng.choice(len(VOCABULARY.objects), size=num_things, replace=False)
    colours = rng.choice(len(VOCABULARY.colours), size=num_things, replace=False)
    things = [
        (VOCABULARY.objects[int(k)], VOCABULARY.colours[int(c)]) for k, c in zip(kinds, colours, strict=True)
    ]
    return things, VOCABULARY.places[int(rng.integers(len(VOCABULARY.places)))]
