"""``python -m benchmarks.subject``: what a subject run on ``pocket`` learns, and what happens to the subject's class.

A thing that the base never saw is trained under a rare token and the word of a class that it knows ("sks cat" for one
octopus), with prior preservation and without. Measured on the adapters' pictures: is the subject there in places that
were not in its photos; how far do same-seed pictures of the class without the token move. A stopped call goes on where
it was: finished runs are read back from the result file.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.bare_run import train_bare
from detour.adapter_files import read_adapter
from detour.adapters.attach import attach_adapter
from detour.bases.base import open_base
from detour.evaluation.judge import Judge, PromptFacts
from detour.generation.engine import PictureEngine, PictureRequest
from detour.generation.grids import grid
from detour.generation.png import save_image
from detour.pocket.world import (
    HELD_OUT,
    HOUSE,
    VOCABULARY,
    compose_scene,
    place_phrase,
    plain_prompt,
    render,
)
from detour.specs import PictureSpec
from detour.verbs.datasets.practice_subject import NEW_PLACES, WorldSubject, draw_subject_pictures

Pictures = np.ndarray
TOKEN = "sks"


@dataclass(frozen=True)
class Subject:
    """One individual: a held-out thing in one colour, under the word of the class that the judge finds nearest."""

    kind: str
    colour: str
    class_word: str

    @property
    def words(self) -> str:
        return f"a {TOKEN} {self.class_word}"


SUBJECTS = {
    "octopus": Subject("octopus", "purple", "cat"),
    "snail": Subject("snail", "orange", "duck"),
    "robot": Subject("robot", "red", "house"),
}


def draw_photos(subject: Subject, folder: Path, *, count: int, seed: int) -> None:
    """Pictures of the subject in the first three places, captioned with the token and the place."""
    thing = WorldSubject(kind=subject.kind, colour=subject.colour, words=subject.words)
    draw_subject_pictures(folder, thing, count=count, seed=seed)


def true_pictures(
    kind: str, colours: Sequence[str], places: Sequence[str], *, each: int, seed: int
) -> Pictures:
    return np.stack(
        [
            render(compose_scene(seed=seed + i, things=[(kind, colour)], place=place), HOUSE)
            for colour in colours
            for place in places
            for i in range(each)
        ]
    )


class Scorer:
    """Classifies pictures by the judge's features alone: the nearest of 19 means over true renders.

    The means are of one colour each, the one that was asked for: over all colours they would tell colours.
    """

    def __init__(self) -> None:
        self.judge = Judge.load(open_base("pocket").folder / "judge")
        self.kinds = (*VOCABULARY.objects, *VOCABULARY.held_out_subjects)
        self._means: dict[str, torch.Tensor] = {}

    def share_seen_as(self, pictures: Pictures, kind: str, colours: Sequence[str]) -> float:
        """Share of the pictures, each of a thing of that colour, that are nearest to ``kind``."""
        features = self.judge.picture_features(pictures)
        nearest = [int((self._means_in(c) @ row).argmax()) for c, row in zip(colours, features, strict=True)]
        return sum(index == self.kinds.index(kind) for index in nearest) / len(nearest)

    def _means_in(self, colour: str) -> torch.Tensor:
        if colour not in self._means:
            each = [
                true_pictures(kind, [colour], VOCABULARY.places, each=4, seed=5000) for kind in self.kinds
            ]
            self._means[colour] = torch.stack([self.judge.picture_features(one).mean(0) for one in each])
        return self._means[colour]

    def accuracy(self, pictures: Pictures, facts: Sequence[PromptFacts]) -> dict[str, float]:
        vocabulary = {"object": VOCABULARY.objects, "colour": VOCABULARY.colours, "place": VOCABULARY.places}
        return self.judge.prompt_accuracy(
            pictures, facts, vocabulary, lambda one: plain_prompt(one.object, one.colour, one.place)
        )

    def likeness(self, pictures: Pictures, truths: Pictures) -> float:
        """Mean cosine of each picture with the mean of the subject's true pictures."""
        mean = torch.nn.functional.normalize(self.judge.picture_features(truths).mean(0), dim=0)
        return float((self.judge.picture_features(pictures) @ mean).mean())


@dataclass(frozen=True)
class Asked:
    """Prompts of one subject, one seed each: in new places, of its class, and of other things."""

    subject: list[PictureRequest]
    own_class: list[PictureRequest]
    others: list[PictureRequest]
    class_facts: list[PromptFacts]
    other_facts: list[PromptFacts]


def ask(subject: Subject, *, count: int) -> Asked:
    def drawn(kinds: Sequence[str]) -> list[PromptFacts]:
        every = [
            PromptFacts(object=kind, colour=colour, place=place)
            for kind in kinds
            for colour in VOCABULARY.colours
            for place in VOCABULARY.places
            if (kind, colour, place) not in HELD_OUT.combinations
        ]
        return [every[int(i)] for i in np.random.default_rng(11).permutation(len(every))[:count]]

    class_facts = drawn([subject.class_word])
    other_facts = drawn([kind for kind in VOCABULARY.objects if kind != subject.class_word])
    return Asked(
        subject=[
            PictureRequest(prompt=f"{subject.words} {place_phrase(NEW_PLACES[i % 3])}", seed=2000 + i)
            for i in range(count)
        ],
        own_class=_requests(class_facts, 3000),
        others=_requests(other_facts, 4000),
        class_facts=class_facts,
        other_facts=other_facts,
    )


def _requests(facts: Sequence[PromptFacts], seed: int) -> list[PictureRequest]:
    prompts = [plain_prompt(one.object, one.colour, one.place) for one in facts]
    return [PictureRequest(prompt=prompt, seed=seed + i) for i, prompt in enumerate(prompts)]


def draw_all(engine: PictureEngine, asked: Asked) -> list[Pictures]:
    spec = PictureSpec(steps=20)
    return [
        engine.draw(requests, spec, batch=8).pictures
        for requests in (asked.subject, asked.own_class, asked.others)
    ]


def measure(
    scorer: Scorer, subject: Subject, asked: Asked, base: list[Pictures], got: list[Pictures]
) -> dict[str, Any]:
    """Figures of one adapter against the base's pictures of the same prompts and seeds."""
    new_truths = true_pictures(subject.kind, [subject.colour], NEW_PLACES, each=4, seed=7000)
    other_truths = true_pictures(subject.kind, [subject.colour], NEW_PLACES, each=4, seed=8000)
    places = [
        PromptFacts(object=subject.class_word, colour=subject.colour, place=NEW_PLACES[i % 3])
        for i in range(len(asked.subject))
    ]

    def moved(index: int) -> float:
        return float(np.abs(got[index].astype(np.int16) - base[index].astype(np.int16)).mean())

    def looks(pictures: Pictures, facts: list[PromptFacts]) -> dict[str, float]:
        found = scorer.accuracy(pictures, facts)
        seen = scorer.share_seen_as(pictures, subject.kind, [one.colour for one in facts])
        return {**found, "seen as subject": seen}

    def seen(pictures: Pictures) -> float:
        return scorer.share_seen_as(pictures, subject.kind, [subject.colour] * len(pictures))

    return {
        "subject": {
            "seen as subject": seen(got[0]),
            "of base": seen(base[0]),
            "of true renders": seen(other_truths),
            "place": scorer.accuracy(got[0], places)["place"],
            "likeness": scorer.likeness(got[0], new_truths),
            "likeness of base": scorer.likeness(base[0], new_truths),
            "likeness of true renders": scorer.likeness(other_truths, new_truths),
        },
        "class": {"moved": moved(1), **looks(got[1], asked.class_facts)},
        "others": {"moved": moved(2), **looks(got[2], asked.other_facts)},
        "base class": looks(base[1], asked.class_facts),
    }


def train(photos: Path, work: Path, *, seed: int, settings: dict[str, Any], name: str) -> Path:
    own = {
        "goal": "subject",
        "seed": seed,
        "prior.pictures": 48,
        "prior.folder": str(work / "class-pictures"),
    }
    return train_bare(name, photos, work / "runs", own | settings)


def sheet(
    path: Path, asked: Asked, base: list[Pictures], by_name: dict[str, list[Pictures]], truths: Pictures
) -> None:
    """Rows of prompts; columns base, each adapter, and a true picture of the subject."""
    rows, labels = [], []
    blank = np.full_like(base[0][0], 255)
    for group, requests in ((0, asked.subject[:4]), (1, asked.own_class[:4])):
        for i, request in enumerate(requests):
            rows += [base[group][i], *(pictures[group][i] for pictures in by_name.values())]
            # Three places take turns, and truths holds two pictures of each.
            rows.append(truths[2 * (i % 3) + i // 3] if group == 0 else blank)
            labels.append(f"{request.prompt}  (seed {request.seed})")
    columns = ["base", *by_name, "true render"]
    save_image(path, grid(np.stack(rows), len(columns), row_labels=labels, column_labels=columns))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.subject", description=__doc__)
    parser.add_argument("--subjects", default="octopus", help="comma-separated: octopus, snail, robot")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--photos", type=int, default=12)
    parser.add_argument("--count", type=int, default=12, help="pictures of each kind that are scored")
    parser.add_argument("--variants", default="prior,no prior")
    parser.add_argument("--set", dest="assignments", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--work", type=Path, default=Path("subject-runs"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    from detour.specs.sources import parse_assignments

    settings = parse_assignments(given.assignments)
    results_file = given.work / "results.json"
    results = json.loads(results_file.read_text()) if results_file.exists() else {}
    scorer, engine = Scorer(), PictureEngine.load(open_base("pocket"))
    for subject in (SUBJECTS[name] for name in given.subjects.split(",")):
        asked = ask(subject, count=given.count)
        base = draw_all(engine, asked)
        for seed in range(given.seeds):
            photos = given.work / f"photos-{subject.kind}-{seed}"
            draw_photos(subject, photos, count=given.photos, seed=seed)
            pictures: dict[str, list[Pictures]] = {}
            for variant in given.variants.split(","):
                key = f"{subject.kind}, seed {seed}, {variant}"
                if key in results:
                    continue
                own = {"prior.class_prompts": class_prompts(subject)} if variant == "prior" else {}
                name = f"{subject.kind}-{seed}-{variant.replace(' ', '-')}"
                began = time.monotonic()
                file = train(photos, given.work, seed=seed, settings={**own, **settings}, name=name)
                seconds = time.monotonic() - began
                attached = attach_adapter({"unet": engine.unet, **engine.text.models}, read_adapter(file))
                pictures[variant] = draw_all(engine, asked)
                attached.detach()
                results[key] = {
                    "settings": settings,
                    "seconds": round(seconds),
                    **measure(scorer, subject, asked, base, pictures[variant]),
                }
                results_file.write_text(json.dumps(results, indent=2) + "\n")
                print(key, json.dumps(results[key]), flush=True)
            if pictures:
                truths = true_pictures(subject.kind, [subject.colour], NEW_PLACES, each=2, seed=7000)
                sheet(given.work / f"{subject.kind}-{seed}.png", asked, base, pictures, truths)


def class_prompts(subject: Subject) -> tuple[str, ...]:
    """The class as a user would name it, in the colours that the base knows."""
    return tuple(f"a {colour} {subject.class_word}" for colour in VOCABULARY.colours)


if __name__ == "__main__":
    main()
