"""Reads a caption back, independently of the code that wrote it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from detour.pocket.world import VOCABULARY

_THING = re.compile(
    rf"\ban? ({'|'.join(VOCABULARY.colours)}) "
    rf"({'|'.join((*VOCABULARY.objects, *VOCABULARY.held_out_subjects))})\b"
)
_MEANING = {
    "beside": ("beside", False),
    "next to": ("beside", False),
    "above": ("above", False),
    "over": ("above", False),
    "below": ("above", True),
    "under": ("above", True),
    "on": ("on", False),
    "on top of": ("on", False),
}


@dataclass(frozen=True)
class Reading:
    """What a caption says: (colour, kind) pairs with the relation's first thing first."""

    things: tuple[tuple[str, str], ...]
    relation: str | None
    place: str
    sky: str | None
    style_words: tuple[str, ...]


def read(text: str) -> Reading:
    """Every word of the caption is accounted for, or it does not parse."""
    sky = next((phrase for phrase in VOCABULARY.skies if phrase in text), None)
    if sky is not None:
        text = text.replace(f"{sky}, ", "", 1) if text.startswith(sky) else text.replace(f" {sky}", "", 1)
    text, *style_words = text.split(", ")
    places = re.findall(rf"\b(?:in|on) the ({'|'.join(VOCABULARY.places)})\b", text)
    assert len(places) == 1, text
    matches = list(_THING.finditer(text))
    things = [(match[1], match[2]) for match in matches]
    relation = None
    if len(matches) == 2:
        relation, swapped = _MEANING[text[matches[0].end() : matches[1].start()].strip()]
        things = things[::-1] if swapped else things
    first, last = matches[0].start(), matches[-1].end()
    rest = re.sub(rf"\b(?:in|on) the {places[0]}\b", "", f"{text[:first]} {text[last:]}").strip()
    assert rest in {"", "there is", "a picture of"}, text
    return Reading(tuple(things), relation, places[0], sky, tuple(style_words))
