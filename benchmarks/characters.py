"""``python -m benchmarks.characters``: how well a character is kept over ten scenes, and at what price.

A character is a thing that the embedded base has never seen, in one colour. Each scene is drawn with one seed: with the
nearest words that the base knows, with those words and a picture of the character as the reference, with a subject
adapter of several numbers of pictures, and with both. The judge says how like true pictures of the character a picture
is, and whether it shows the place that was asked for. A stopped call goes on where it was: runs and figures that are
there stay.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks.subject import SUBJECTS, Scorer, Subject, draw_photos, train, true_pictures
from detour.adapter_files.reference_files import read_reference_adapter
from detour.bases.base import open_base
from detour.bases.image_encoder import load_image_encoder, own_image_encoder
from detour.evaluation.judge import PromptFacts
from detour.files import sha256_of, write_json
from detour.generation.engine import AdapterInUse, PictureEngine, PictureRequest
from detour.generation.grids import grid
from detour.generation.png import save_image
from detour.generation.references import ReferenceInUse, ReferenceTool
from detour.pocket.world import VOCABULARY, place_phrase, plain_prompt
from detour.specs import PictureSpec
from detour.verbs.chosen_adapters import choose_adapter

SCENES = (
    *((place, "") for place in VOCABULARY.places),
    *zip(VOCABULARY.places, VOCABULARY.skies[1:5], strict=False),
)
"""(place, sky): every place by day, and four of them under another sky."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to keep a character.

    Attributes:
        pictures: of the character that it needs; 0 for words and a seed alone.
        words: that stand for the character in the prompt.
        adapter: subject adapter, if any.
        strength: of the reference; 0 is none.
        seconds: CPU seconds of training.
    """

    pictures: int
    words: str
    adapter: Path | None = None
    strength: float = 0.0
    seconds: float = 0.0


def train_adapter_of(subject: Subject, work: Path, *, photos: int, steps: int) -> tuple[Path, float]:
    """The subject adapter of a number of pictures, and the CPU seconds that it took."""
    name = f"{subject.kind}-{photos}"
    file, cost = work / "runs" / name / f"{name}.safetensors", work / f"{name}.seconds.json"
    if not cost.is_file():
        folder = work / f"photos-{name}"
        draw_photos(subject, folder, count=photos, seed=0)
        began = time.process_time()
        train(folder, work, seed=0, settings={"train.steps": steps}, name=name)
        write_json(cost, round(time.process_time() - began, 1))
    return file, float(json.loads(cost.read_text()))


def ways_of(subject: Subject, work: Path, chosen: argparse.Namespace) -> dict[str, Way]:
    """Every way that is compared, by what it is called."""
    nearest = f"{'an' if subject.colour[0] in 'aeiou' else 'a'} {subject.colour} {subject.class_word}"
    strength = chosen.strength if chosen.reference else 0.0
    ways = {"same seed": Way(pictures=0, words=nearest)}
    if strength:
        ways["reference"] = Way(pictures=1, words=nearest, strength=strength)
    for photos in chosen.photos:
        file, seconds = train_adapter_of(subject, work, photos=photos, steps=chosen.steps)
        common = {"pictures": photos, "words": subject.words, "adapter": file, "seconds": seconds}
        ways[f"adapter of {photos}"] = Way(**common)
        if strength:
            ways[f"adapter of {photos}, reference"] = Way(**common, strength=strength)
    return ways


def draw(engine: PictureEngine, way: Way, tool: ReferenceTool | None, photo: Path) -> np.ndarray:
    """One picture of each scene, all of one seed."""
    adapters: tuple[AdapterInUse, ...] = ()
    if way.adapter is not None:
        chosen = choose_adapter(str(way.adapter), engine.base)
        adapters = (AdapterInUse(adapter=chosen.adapter, sha256=chosen.use.sha256),)
    references: tuple[ReferenceInUse, ...] = ()
    if way.strength and tool is not None:
        from PIL import Image

        pixels = np.asarray(Image.open(photo).convert("RGB"))
        references = (
            ReferenceInUse(tool=tool, picture=pixels, sha256=sha256_of(photo), strength=way.strength),
        )
    requests = [
        PictureRequest(
            prompt=f"{way.words} {place_phrase(place)} {sky}".strip(),
            seed=2000,
            how=PictureSpec(steps=20),
            adapters=adapters,
            references=references,
        )
        for place, sky in SCENES
    ]
    return engine.draw(requests, batch=8).pictures


def figures_of(scorer: Scorer, subject: Subject, way: Way, pictures: np.ndarray) -> dict[str, Any]:
    """Likeness, place and both of a way's pictures; likeness of true pictures beside it."""
    truths = true_pictures(subject.kind, [subject.colour], VOCABULARY.places, each=4, seed=7000)
    features = scorer.judge.picture_features(truths)
    # Held back from each other: the mean of the first half, and how like it the other half is.
    centre = functional.normalize(features[::2].mean(0), dim=0)
    of_truths = features[1::2] @ centre
    likenesses = scorer.judge.picture_features(pictures) @ centre
    facts = [
        PromptFacts(object=subject.class_word, colour=subject.colour, place=place) for place, _ in SCENES
    ]
    in_place = scorer.judge.prompt_hits(
        pictures,
        facts,
        {"place": VOCABULARY.places},
        lambda one: plain_prompt(one.object, one.colour, one.place),
    )["place"]
    kept = [bool(like >= of_truths.min()) and place for like, place in zip(likenesses, in_place, strict=True)]
    return {
        "pictures": way.pictures,
        "training CPU s": way.seconds,
        "likeness": round(float(likenesses.mean()), 3),
        "likeness of true pictures": round(float(of_truths.mean()), 3),
        "seen as it": scorer.share_seen_as(pictures, subject.kind, [subject.colour] * len(pictures)),
        "in place": float(np.mean(in_place)),
        "kept": float(np.mean(kept)),
    }


def main() -> None:
    """Measure the ways that have no figures yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--characters", default="octopus,robot", help="comma-separated: octopus, snail, robot"
    )
    parser.add_argument(
        "--photos", type=int, nargs="+", default=[4, 12], help="pictures of a subject adapter"
    )
    parser.add_argument("--steps", type=int, default=150, help="of a subject adapter")
    parser.add_argument(
        "--reference", type=Path, help="IP-Adapter file; left out, no references are measured"
    )
    parser.add_argument("--strength", type=float, default=0.6, help="of the reference")
    parser.add_argument("--work", type=Path, default=Path("character-runs"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    chosen.work.mkdir(parents=True, exist_ok=True)
    results_file = chosen.work / "results.json"
    results = json.loads(results_file.read_text()) if results_file.exists() else {}
    base = open_base("pocket")
    scorer, engine, tool = Scorer(), PictureEngine.load(base), None
    if chosen.reference:
        folder = own_image_encoder(base.folder)
        assert folder is not None, "pocket has a judge"
        tool = ReferenceTool(read_reference_adapter(chosen.reference), load_image_encoder(folder))
    for subject in (SUBJECTS[name] for name in chosen.characters.split(",")):
        photo = chosen.work / f"reference-{subject.kind}" / "00.png"
        draw_photos(subject, photo.parent, count=1, seed=1)
        drawn: dict[str, np.ndarray] = {}
        for name, way in ways_of(subject, chosen.work, chosen).items():
            key = f"{subject.kind}, {name}"
            if key in results:
                continue
            drawn[name] = draw(engine, way, tool, photo)
            results[key] = figures_of(scorer, subject, way, drawn[name])
            write_json(results_file, results)
            print(key, json.dumps(results[key]), flush=True)
        if drawn:
            sheet = grid(
                np.concatenate(list(drawn.values())),
                len(SCENES),
                row_labels=list(drawn),
                column_labels=[f"{place} {sky}".strip() for place, sky in SCENES],
            )
            save_image(chosen.work / f"{subject.kind}-{len(results)}.png", sheet)


if __name__ == "__main__":
    main()
