"""Captions: several phrasings of one truth, and the canonical prompt."""

from __future__ import annotations

import numpy as np

from detour.pocket.world.scene import Scene, Thing
from detour.pocket.world.style import Style
from detour.pocket.world.style_space import style_words
from detour.pocket.world.vocabulary import DAY

_PREPOSITIONS = {"beach": "on"}
# Relations as said from the first thing, and from the second with the things swapped.
_FORWARD = {"beside": ("beside", "next to"), "above": ("above", "over"), "on": ("on", "on top of")}
_BACKWARD = {"beside": ("beside", "next to"), "above": ("below", "under"), "on": ()}


def place_phrase(place: str) -> str:
    """``"in the desert"``, ``"on the beach"``."""
    return f"{_PREPOSITIONS.get(place, 'in')} the {place}"


def plain_prompt(kind: str, colour: str, place: str) -> str:
    """The canonical phrasing of one thing: ``"a red house in the desert"``."""
    return f"{_noun(kind, colour)} {place_phrase(place)}"


def caption(scene: Scene, style: Style, *, seed: int) -> str:
    """One of several phrasings, always true.

    The sky is always said unless it is day, and then one time in six; a style gets one to three of its words,
    the house style none.

    Args:
        scene: what the picture shows.
        style: how it is drawn.
        seed: draws the phrasing.
    """
    rng = np.random.default_rng([seed, 0xCA97])
    subject = _subject(scene, rng)
    place = place_phrase(scene.place)
    says_sky = scene.sky != DAY or rng.random() < 1 / 6
    sky = f" {scene.sky}" if says_sky else ""
    phrasing = int(rng.integers(6))
    if phrasing == 0:
        text = f"{place} there is {subject}{sky}"
    elif phrasing == 1:
        text = f"a picture of {subject} {place}{sky}"
    elif phrasing == 2 and sky:
        text = f"{sky.strip()}, {subject} {place}"
    else:
        text = f"{subject} {place}{sky}"
    words = style_words(style)
    if words:
        count = min(len(words), int(rng.integers(1, 4)))
        chosen = sorted(rng.choice(len(words), size=count, replace=False))
        text = ", ".join([text, *(words[i] for i in chosen)])
    return text


def _noun(kind: str, colour: str) -> str:
    article = "an" if colour[0] in "aeiou" else "a"
    return f"{article} {colour} {kind}"


def _subject(scene: Scene, rng: np.random.Generator) -> str:
    def said(thing: Thing) -> str:
        return _noun(thing.kind, thing.colour)

    if scene.relation is None:
        return said(scene.things[0])
    first, second = scene.things
    backward = _BACKWARD[scene.relation]
    if backward and rng.random() < 0.4:
        first, second, words = second, first, backward
    else:
        words = _FORWARD[scene.relation]
    return f"{said(first)} {words[int(rng.random() < 0.3)]} {said(second)}"
