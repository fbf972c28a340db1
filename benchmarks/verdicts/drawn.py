"""Sides drawn by code in the adapter's place: what was lost is known, and nothing has to be trained.

They say how sure the rules are where truth is exact; what trained adapters look like, only trained runs say.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.verdicts import techniques
from benchmarks.verdicts.conditions import Condition
from benchmarks.verdicts.drawings import Words, compose, random_words
from benchmarks.verdicts.material import Case, ask, draw_style, write_arrays
from detour.evaluation import pixels
from detour.evaluation.judgement import judge
from detour.evaluation.raw_material import Material, PixelFacts, Slot
from detour.pocket.world import VOCABULARY

Array = NDArray[np.float64]

SIDES: dict[str, Condition] = {
    "everything kept": Condition(accepted=("learned",), why="true pictures of the prompts in the style"),
    "a quarter lost": Condition(
        accepted=("learned", "forgot_prompts", "inconclusive"), decidable=False,
        why="four of sixteen prompts show another scene: too little to be found by sixteen pictures for sure",
    ),
    "half lost": Condition(accepted=("forgot_prompts", "collapsed"), why="every second prompt shows another scene"),
    "everything lost": Condition(accepted=("forgot_prompts", "collapsed"), why="every prompt shows another scene"),
    "objects lost": Condition(
        accepted=("forgot_prompts", "inconclusive", "learned"), decidable=False,
        why="another thing in the right colour and place: unseen where the judge does not read things in the style",
    ),
    "places lost": Condition(
        accepted=("forgot_prompts", "inconclusive", "learned"), decidable=False,
        why="the right thing in another place: unseen where the style hides places from the judge",
    ),
    "another style": Condition(
        accepted=("inconclusive", "forgot_prompts"), decidable=False, why="a style was learned, and not this one"
    ),
    "the base from other seeds": Condition(accepted=("inconclusive",), decidable=False, why="nothing was learned"),
    "captions shuffled": Condition(
        accepted=("inconclusive",), decidable=False, why="the user's captions do not fit the user's pictures"
    ),
    "eight pictures": Condition(accepted=("learned",), why="kept, compared with eight references"),
    "three pictures": Condition(accepted=("inconclusive",), decidable=False, why="kept, with three references"),
}  # fmt: skip
"""Pictures in place of the adapter's → pictures in place of the user's own."""


@dataclass(frozen=True)
class DrawnCase:
    """One style with pictures made by code in place of the adapter's."""

    look: str
    condition: str
    goal: str = "style"

    @property
    def name(self) -> str:
        """Name of the case in lists."""
        return f"{self.look}: {self.condition}"

    @property
    def how(self) -> Condition:
        """Condition of the case, with the verdicts that are right."""
        return SIDES[self.condition]


def draw_features(look: str, work: Path, reader: Any) -> dict[str, Array]:
    """Features of all sides of a style, drawn once and kept."""
    kept = work / "drawn" / (reader.spoiled.replace(" ", "-") or "whole") / f"{look.replace(' ', '-')}.npz"
    if not kept.exists():
        asked = list(ask(Case("style", look, "good", 0)).words)
        others = random_words(len(asked), seed=4242)
        shown = {
            "kept": asked,
            "other": others,
            "no_object": [
                replace(own, object=_another(own.object, VOCABULARY.objects, i))
                for i, own in enumerate(asked)
            ],
            "no_place": [
                replace(own, place=_another(own.place, VOCABULARY.places, i)) for i, own in enumerate(asked)
            ],
        }
        found = {
            name: _features(look, words, reader, seed=800_000 + 1000 * i)
            for i, (name, words) in enumerate(shown.items())
        }
        pictures, captions = draw_style(Case("style", look, "good", 0))
        found["references"] = reader.pictures(np.stack(pictures))
        found["captions"] = reader.texts(captions)
        found["diversity"] = np.array([pixels.diversity(np.stack(pictures))])
        write_arrays(kept, found)
    with np.load(kept) as stored:
        return {name: stored[name] for name in stored.files}


def _features(look: str, words: Sequence[Words], reader: Any, *, seed: int) -> Array:
    drawn = [techniques.draw(look, compose(one, seed=seed + i), seed=seed + i) for i, one in enumerate(words)]
    rows: Array = reader.pictures(np.stack(drawn))
    return rows


def _another(word: str, words: Sequence[str], turn: int) -> str:
    return words[(words.index(word) + 1 + turn % (len(words) - 1)) % len(words)]


def materials(
    look: str, work: Path, reader: Any, base: dict[str, Array], *, vocabulary: bool
) -> Iterator[tuple[DrawnCase, Material]]:
    """Every side of a style with what the rules are given."""
    found = draw_features(look, work, reader)
    looks = list(techniques.TUNING if look in techniques.TUNING else techniques.TEST)
    stranger = draw_features(looks[(looks.index(look) + 1) % len(looks)], work, reader)["kept"]
    quarter, half = (
        np.where((np.arange(16) % every == 0)[:, None], found["other"], found["kept"]) for every in (4, 2)
    )
    everything = len(found["references"])
    sides: dict[str, tuple[Array, int]] = {
        "everything kept": (found["kept"], everything), "a quarter lost": (quarter, everything),
        "half lost": (half, everything), "everything lost": (found["other"], everything),
        "objects lost": (found["no_object"], everything), "places lost": (found["no_place"], everything),
        "another style": (stranger, everything), "the base from other seeds": (base["base_other_seed"], everything),
        "captions shuffled": (found["kept"], everything), "eight pictures": (found["kept"], 8),
        "three pictures": (found["kept"], 3),
    }  # fmt: skip
    case = Case("style", look, "good", 0)
    slots = {}
    if vocabulary:
        own = [[one.object, one.colour, one.place] for one in ask(case).words]
        named = [[one.object, one.colour, one.place] for one in random_words(20, seed=len(look))]
        asked, shown = reader.slots(own), reader.slots(named)
        slots = {name: (asked[name], shown[name]) for name in asked}
    for name, (adapter, count) in sides.items():
        captions = found["captions"][:count]
        roll = 3 if name == "captions shuffled" else 0
        parts = {
            key: Slot(phrases=asked[0], right=asked[1], reference_phrases=np.roll(shown[0][:count], roll, 0),
                      reference_right=np.roll(shown[1][:count], roll, 0))
            for key, (asked, shown) in slots.items()
        }  # fmt: skip
        yield DrawnCase(look, name), Material(
            scale=reader.scale, prompts=base["text_plain"], base=base["base_new"], adapter=adapter,
            references=found["references"][:count], captions=np.roll(captions, roll, 0), slots=parts,
            pixels=PixelFacts(effect=20.0),
        )  # fmt: skip


def base_features(work: Path, reader: Any) -> dict[str, Array]:
    """The base's pictures of the new prompts, from any trained case of a style."""
    from benchmarks.verdicts.scoring import first_style_case

    case = first_style_case(work)
    rows: dict[str, Array] = reader.features(case, work / "cases" / f"{case.name}.npz")
    return rows


def score_drawn(
    work: Path, reader: Any, *, tuning: bool, vocabulary: bool = False, spoiled: Any = ""
) -> list[Any]:
    """Every side of every style of one half."""
    from benchmarks.verdicts.scoring import Line, spoil

    base = base_features(work, reader)
    looks = techniques.TUNING if tuning else techniques.TEST
    return [
        Line.of(case, judge(spoil(material, spoiled)))
        for look in looks
        for case, material in materials(look, work, reader, base, vocabulary=vocabulary)
    ]
