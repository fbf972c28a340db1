"""``python -m benchmarks.reference OUT``: an IP-Adapter for the embedded base, and what a reader finds in its pictures.

Stages, each of which goes on where it was stopped: pictures of one thing from the training stream of the base, with
captions that leave out colour, object or style as often as not; first weights by least squares; ``detour train --method
reference`` from there, with the picture tower of the base's judge as the image encoder; a reader (a small convolutional
network) trained apart on true renders, which is neither the judge nor the encoder; and pictures of combinations that
the base has never seen, whose prompt does not say what the reference shows. Figures go to ``OUT/figures.json``, with
two ceilings: the reader's own accuracy on true renders, and what the base draws when the prompt says everything.
``--file`` measures a file in place of the trained one.
"""

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.reference_start import write_first_weights
from benchmarks.small_reader import SmallReader
from detour.adapter_files.reference_files import read_reference_adapter
from detour.bases.base import open_base
from detour.bases.image_encoder import load_image_encoder, own_image_encoder
from detour.evaluation.judge import Judge, PromptFacts, judge_of
from detour.files import write_json
from detour.generation.engine import PictureEngine, PictureRequest
from detour.generation.references import ReferenceInUse, ReferenceTool
from detour.pocket.world import (
    HOUSE,
    VOCABULARY,
    compose_scene,
    held_out_prompts,
    place_phrase,
    render,
    style_words,
    training_example,
)
from detour.pocket.world.held_out import HELD_OUT
from detour.pocket.world.stream import Example
from detour.pocket.world.style import NAMED_STYLES, Style
from detour.specs import load_run_spec
from detour.specs.generation import PictureSpec
from detour.verbs.train.run import train_adapter

STYLES: dict[str, Style] = {
    "house": HOUSE,
    **{name: style for name, style in NAMED_STYLES.items() if name not in HELD_OUT.styles},
}
"""Styles that are told apart; those held out for style adapters stay out."""

HEADS = {"object": VOCABULARY.objects, "colour": VOCABULARY.colours, "style": tuple(STYLES)}


def one_thing_examples(seed: int) -> Iterator[tuple[int, Example]]:
    """Number and example of the pictures of the training stream that show one thing."""
    numbered = ((index, training_example(seed, index)) for index in itertools.count())
    return ((index, example) for index, example in numbered if len(example.scene.things) == 1)


def partial_caption(example: Example, seed: int, index: int) -> str:
    """A true caption of a picture, some of colour, object and style left out."""
    rng = np.random.default_rng([seed, index, 0x9EF])
    says = {name: bool(rng.random() < 0.5) for name in HEADS}
    (thing,) = example.scene.things
    words = [thing.colour] if says["colour"] else []
    words += [thing.kind] if says["object"] else []
    text = " ".join([*words, place_phrase(example.scene.place)])
    return ", ".join([text, *style_words(example.style)[:2]]) if says["style"] else text


def write_pictures(folder: Path, count: int, *, seed: int) -> None:
    """Pictures of the training stream with partial captions; those that are there stay."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (index, example) in enumerate(itertools.islice(one_thing_examples(seed), count)):
        place = folder / f"{number:05d}.png"
        if place.with_suffix(".txt").is_file():
            continue
        Image.fromarray(render(example.scene, example.style)).save(place)
        place.with_suffix(".txt").write_text(partial_caption(example, seed, index) + "\n", encoding="utf-8")


def first_weights(out: Path, *, count: int) -> Path:
    """The IP-Adapter that training starts at (:mod:`benchmarks.reference_start`)."""
    base = open_base("pocket")
    folder = own_image_encoder(base.folder)
    assert folder is not None, "pocket has a judge"
    files = sorted((out / "pictures").glob("*.png"))[:count]
    shown = [
        (example, np.asarray(Image.open(file).convert("RGB")))
        for file, (_, example) in zip(files, one_thing_examples(11), strict=False)
    ]
    return write_first_weights(out / "first.safetensors", base, load_image_encoder(folder), shown, seed=0)


def train(out: Path, *, steps: int, batch: int, rate: float, first: Path) -> Path:
    """The IP-Adapter's file; a run that was stopped goes on."""
    run = out / "runs" / "reference"
    if (run / "reference.safetensors").is_file() and (run / "gradients.json").is_file():
        return run / "reference.safetensors"
    if run.is_dir():
        return train_adapter(None, resume=run).adapter_file
    flags = {
        "name": "reference",
        "data.source": str(out / "pictures"),
        "data.flip": False,
        "data.holdout": 0.02,
        "adapter.method": "reference",
        "adapter.from_file": str(first),
        "train.steps": steps,
        "train.batch": batch,
        "train.threads": 1,
        "train.ema": 0.99,
        "train.optim.lr": rate,
        "train.schedule.kind": "constant",
        "train.schedule.warmup": 20,
        "train.loss.caption_dropout": 0.1,
        # What a picture shows is decided at noisy times.
        "train.loss.timesteps": "logit_normal",
        "train.loss.logit_mean": 0.8,
        "checkpoint.every": 100,
        "validate.every": 500,
    }
    return train_adapter(load_run_spec(flags=flags), runs=out / "runs").adapter_file


def true_render(rng: np.random.Generator) -> tuple[np.ndarray, dict[str, str]]:
    """A picture of one thing and what it shows, all combinations alike."""
    facts = {name: str(words[int(rng.integers(len(words)))]) for name, words in HEADS.items()}
    place = VOCABULARY.places[int(rng.integers(len(VOCABULARY.places)))]
    scene = compose_scene(
        seed=int(rng.integers(2**31)), things=[(facts["object"], facts["colour"])], place=place
    )
    return render(scene, STYLES[facts["style"]]), facts


def stream_pictures(folder: Path, *, seed: int) -> list[tuple[np.ndarray, dict[str, str]]]:
    """The pictures that are there of the training stream, and what they show; only the house style has a name."""
    files = sorted(folder.glob("*.png"))
    found = []
    for file, (_, example) in zip(files, one_thing_examples(seed), strict=False):
        (thing,) = example.scene.things
        facts = {"object": thing.kind, "colour": thing.colour}
        named = {"style": "house"} if example.style == HOUSE else {}
        found.append((np.asarray(Image.open(file).convert("RGB")), facts | named))
    return found


def train_reader(out: Path, *, count: int, epochs: int) -> tuple[SmallReader, dict[str, float]]:
    """The reader, and its accuracy on true renders that it was not trained on; kept in ``OUT/reader.pt``."""
    reader, file = SmallReader(HEADS), out / "reader.pt"
    rng = np.random.default_rng(0x4EAD)
    held = max(count // 10, 1)
    made = [true_render(rng) for _ in range(held if file.is_file() else count)]
    if file.is_file():
        reader.load(file)
    else:
        seen = [*made[held:], *stream_pictures(out / "pictures", seed=11)]
        reader.fit(np.stack([picture for picture, _ in seen]), [facts for _, facts in seen], epochs=epochs)
        reader.save(file)
    read = reader.read(np.stack([picture for picture, _ in made[:held]]))
    return reader, {
        n: float(np.mean([a == f[n] for a, (_, f) in zip(read[n], made, strict=False)])) for n in HEADS
    }


@dataclass(frozen=True)
class Question:
    """One prompt that leaves something out, and the reference that shows it."""

    head: str
    prompt: str
    answer: str
    reference: np.ndarray
    place: str
    in_words: str
    """The prompt that says in words what the reference shows: what the base itself can draw of it."""


def questions(count: int) -> list[Question]:
    """Unseen combinations; a third each leave the colour, the object and the style to the reference."""
    rng = np.random.default_rng(0x0A5)
    found = []
    for number, asked in enumerate(held_out_prompts(count, seed=7)):
        head = tuple(HEADS)[number % 3]
        style = tuple(STYLES)[int(rng.integers(len(STYLES)))] if head == "style" else "house"
        where = place_phrase(asked.place)
        prompt = {
            "colour": f"{asked.object} {where}",
            "object": f"{asked.colour} {where}",
            "style": f"{asked.colour} {asked.object} {where}",
        }[head]
        answer = {"colour": asked.colour, "object": asked.object, "style": style}[head]
        # Another scene than the one asked for: only what is asked is to be found again.
        places = [place for place in VOCABULARY.places if place != asked.place]
        scene = compose_scene(
            seed=int(rng.integers(2**31)),
            things=[(asked.object, asked.colour)],
            place=places[int(rng.integers(len(places)))],
        )
        words = ", ".join([f"{asked.colour} {asked.object} {where}", *style_words(STYLES[style])])
        found.append(Question(head, prompt, answer, render(scene, STYLES[style]), asked.place, words))
    return found


def measure(
    file: Path, reader: SmallReader, asked: list[Question], strengths: list[float], steps: int
) -> list[Any]:
    """Share of the questions that the reader answers as the reference does, by strength and head; first in words.

    The base's judge says in how many pictures the prompt's place is kept: the reference shows another one.
    """
    base = open_base("pocket")
    judge = Judge.load(judge_of(base.folder))
    facts = [
        PromptFacts(object=HEADS["object"][0], colour=HEADS["colour"][0], place=one.place) for one in asked
    ]
    encoder = own_image_encoder(base.folder)
    assert encoder is not None
    tool = ReferenceTool(read_reference_adapter(file), load_image_encoder(encoder))
    engine = PictureEngine.load(base)
    rows = []
    for strength in (None, *strengths):
        requests = [
            PictureRequest(
                prompt=one.in_words if strength is None else one.prompt,
                seed=number,
                how=PictureSpec(steps=steps),
                references=()
                if strength is None
                else (
                    ReferenceInUse(tool=tool, picture=one.reference, sha256=str(number), strength=strength),
                ),
            )
            for number, one in enumerate(asked)
        ]
        pictures = engine.draw(requests, batch=8).pictures
        read = reader.read(pictures)
        kept = judge.prompt_hits(
            pictures, facts, {"place": VOCABULARY.places}, lambda fact: place_phrase(fact.place)
        )["place"]
        right = {
            head: [read[head][i] == one.answer for i, one in enumerate(asked) if one.head == head]
            for head in HEADS
        }
        said = "in words" if strength is None else strength
        rows.append(
            {
                "strength": said,
                **{head: float(np.mean(hits)) for head, hits in right.items()},
                "place": float(np.mean(kept)),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    """Run the stages that are not done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--file", type=Path, help="an IP-Adapter to measure, e.g. that of a checkpoint")
    parser.add_argument("--only-first", action="store_true", help="write the first weights and nothing else")
    parser.add_argument("--only-reader", action="store_true", help="train the reader and nothing else")
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--reader", type=int, default=1000, help="true renders that the reader is trained on")
    parser.add_argument("--epochs", type=int, default=20, help="of the reader")
    parser.add_argument("--questions", type=int, default=90)
    parser.add_argument("--strengths", default="0,0.5,1,1.5")
    parser.add_argument("--drawing-steps", type=int, default=20)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    chosen.out.mkdir(parents=True, exist_ok=True)
    if chosen.file is None and not chosen.only_reader:
        write_pictures(chosen.out / "pictures", chosen.pictures, seed=11)
        first = first_weights(chosen.out, count=400)
        if chosen.only_first:
            return
        chosen.file = train(chosen.out, steps=chosen.steps, batch=chosen.batch, rate=chosen.rate, first=first)
    reader, ceiling = train_reader(chosen.out, count=chosen.reader, epochs=chosen.epochs)
    if chosen.only_reader:
        print(json.dumps(ceiling))
        return
    strengths = [float(one) for one in chosen.strengths.split(",")]
    rows = measure(chosen.file, reader, questions(chosen.questions), strengths, chosen.drawing_steps)
    figures = {
        "file": chosen.file.name,
        "ceiling": ceiling,
        "rows": rows,
        "cpu_seconds": round(time.process_time() - began, 1),
    }
    write_json(chosen.out / "figures.json", figures)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
