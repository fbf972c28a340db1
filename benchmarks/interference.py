"""``python -m benchmarks.interference FOLDER``: does what is predicted of two adapters hold in their pictures?

Trains the adapters, draws each alone and each pair at several weights, scores the pictures, and holds two predictions
against the scores: from the factors alone, and from the base's noise predictions. What is finished in FOLDER is kept,
so that a run that was stopped goes on. Writes ``interference.json``, ``interference.png`` and
``interference-pictures.jpg`` there.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.interference_adapters import TRAININGS, trained
from benchmarks.interference_pictures import Mix, asked_scenes, draw_missing, mixes, pictures_of
from benchmarks.interference_plot import draw_relation
from detour.adapter_files.reading import read_adapter
from detour.adapters.attach import attach_adapter
from detour.adapters.overlap import interference_of
from detour.bases.base import open_base
from detour.evaluation.distance import style_distance
from detour.evaluation.judge import Judge, PromptFacts
from detour.files import write_json, write_with
from detour.generation.engine import PictureEngine, PictureRequest
from detour.generation.grids import grid
from detour.generation.pushes import compare_pushes, predictions, record_latents
from detour.pocket.world import NAMED_STYLES, VOCABULARY, compose_scene, plain_prompt, render
from detour.verbs.adapter_tools.measured_overlap import FIRST_SEED, PROMPTS

VOCABULARIES = {"object": VOCABULARY.objects, "colour": VOCABULARY.colours, "place": VOCABULARY.places}
REFERENCES_A_PROMPT = 4

SHOWN: tuple[tuple[tuple[str, float], ...], ...] = (
    (),
    (("glass", 1.0),),
    (("glass-again", 1.0),),
    (("glass", 1.0), ("glass-again", 1.0)),
    (("glass", 0.5), ("glass-again", 0.5)),
    (("watercolour", 1.0),),
    (("glass", 1.0), ("watercolour", 1.0)),
    (("robot", 1.0),),
    (("glass", 1.0), ("robot", 1.0)),
)
SHOWN_PICTURES = [1, 3, 4, 5, 7]


def scores(folder: Path) -> dict[str, dict[str, Any]]:
    """Mix → prompt accuracy of known things, and distance to every style that an adapter learned."""
    judge = Judge.load(open_base("pocket").folder / "judge")
    asked = asked_scenes()
    facts = [PromptFacts(object=one.object, colour=one.colour, place=one.place) for one in asked]
    styles = sorted({one.learns for one in TRAININGS.values() if one.goal == "style"})
    references = {style: judge.picture_features(_references(style)) for style in styles}
    found = {}
    for mix in mixes():
        pictures = pictures_of(mix, folder)
        picture_features = judge.picture_features(pictures)
        found[mix.name] = {
            "accuracy": judge.prompt_accuracy(
                pictures, facts, VOCABULARIES, lambda one: plain_prompt(one.object, one.colour, one.place)
            ),
            "style_distance": {
                style: style_distance(picture_features, seen) for style, seen in references.items()
            },
        }
    return found


def _references(style: str) -> np.ndarray:
    return np.stack(
        [
            render(
                compose_scene(
                    seed=90_000 + 10_000 * copy + index, things=[(one.object, one.colour)], place=one.place
                ),
                NAMED_STYLES[style],
            )
            for copy in range(REFERENCES_A_PROMPT)
            for index, one in enumerate(asked_scenes())
        ]
    )


def moves(folder: Path) -> dict[str, torch.Tensor]:
    """Mix → how it moves the base's noise predictions at the fixed latents."""
    engine = PictureEngine.load(open_base("pocket"), device="cpu", dtype="fp32")
    models = {"unet": engine.unet, **engine.text.models}
    requests = [
        PictureRequest(prompt=prompt, seed=FIRST_SEED + index) for index, prompt in enumerate(PROMPTS)
    ]
    latents = record_latents(engine, requests)
    plain = predictions(engine, latents)
    found = {}
    for mix in mixes():
        attached = [
            attach_adapter(models, read_adapter(trained(name, folder)), weight, name=f"lora_{index}")
            for index, (name, weight) in enumerate(mix.parts)
        ]
        found[mix.name] = predictions(engine, latents) - plain
        for one in reversed(attached):
            one.detach()
    return found


def pair_row(
    mix: Mix, scored: dict[str, dict[str, Any]], moved: dict[str, torch.Tensor], folder: Path
) -> dict[str, Any]:
    """Both predictions and the measured damage of one pair at its weights."""
    (first, weight_first), (second, weight_second) = mix.parts
    alone = [Mix(parts=(part,)).name for part in mix.parts]
    weights = interference_of(
        read_adapter(trained(first, folder)),
        read_adapter(trained(second, folder)),
        weight_first,
        weight_second,
    )
    push = compare_pushes(*(moved[name] for name in (*alone, mix.name)))
    falls = [
        min(scored[name]["accuracy"][slot] for name in alone) - scored[mix.name]["accuracy"][slot]
        for slot in VOCABULARIES
    ]
    return {
        "mix": mix.name,
        "from_factors": {
            "over_chance": weights.interference, "shared": weights.shared,
            "cancelled": weights.cancelled, "imbalance": weights.imbalance, "verdict": weights.verdict,
        },
        "on_base": vars(push) | {"strength": float(moved[mix.name].norm())},
        "prompt_fall": max(0.0, *falls),
        "accuracy": scored[mix.name]["accuracy"],
        "style_lost": {
            name: _lost(TRAININGS[name].learns, alone[index], mix.name, scored)
            for index, (name, _) in enumerate(mix.parts)
            if TRAININGS[name].goal == "style"
        },
    }  # fmt: skip


def _lost(style: str, alone: str, both: str, scored: dict[str, dict[str, Any]]) -> float:
    """Share of the way to the style that the pair loses; negative where it goes further."""
    base, single, pair = (scored[name]["style_distance"][style] for name in ("base", alone, both))
    return float((pair - single) / (base - single))


def rank_correlation(x: list[float], y: list[float]) -> float:
    """Spearman's rank correlation; equal values share their mean rank."""
    return float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])


def _ranks(values: list[float]) -> np.ndarray:
    array = np.asarray(values)
    return np.array([(array < value).sum() + ((array == value).sum() - 1) / 2 for value in array])


def relations(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Prediction → rank correlation with either kind of damage."""
    members = [(row, name) for row in rows for name in row["style_lost"]]
    lost = [row["style_lost"][name] for row, name in members]
    fall = [row["prompt_fall"] for row in rows]
    miss = [1 - row["accuracy"]["object"] for row in rows]
    places = {
        "over_chance": ("from_factors", "over_chance"), "shared": ("from_factors", "shared"),
        "agreement": ("on_base", "agreement"), "louder": ("on_base", "louder"), "strength": ("on_base", "strength"),
    }  # fmt: skip
    found = {
        name: {
            "prompt_fall": rank_correlation([row[part][key] for row in rows], fall),
            "wrong_object": rank_correlation([row[part][key] for row in rows], miss),
            "style_lost": rank_correlation([row[part][key] for row, _ in members], lost),
        }
        for name, (part, key) in places.items()
    }
    kept = [
        row["on_base"]["kept_first" if row["mix"].startswith(f"{name}@") else "kept_second"]
        for row, name in members
    ]
    return found | {"kept": {"style_lost": rank_correlation(kept, lost)}}


def draw_examples(folder: Path) -> None:
    """Some of the pictures, one row for each mix, for people to look at."""
    rows = [Mix(parts=tuple(parts)) for parts in SHOWN]
    pictures = np.concatenate([pictures_of(row, folder)[SHOWN_PICTURES] for row in rows])
    labels = [row.name.replace("@1", "").replace("+", " + ") for row in rows]
    sheet = grid(pictures, len(SHOWN_PICTURES), row_labels=labels)
    write_with(folder / "interference-pictures.jpg", lambda path: sheet.save(path, "JPEG", quality=85))


def main() -> None:
    """Make what is missing, write the figures, and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    torch.set_num_threads(1)
    for name in TRAININGS:
        print("adapter", trained(name, folder), file=sys.stderr, flush=True)
    for name in draw_missing(folder):
        print("drawn", name, file=sys.stderr, flush=True)
    scored, moved = scores(folder), moves(folder)
    rows = [pair_row(mix, scored, moved, folder) for mix in mixes() if len(mix.parts) == 2]
    result = {"pairs": rows, "rank_correlation": relations(rows), "alone": scored}
    write_json(folder / "interference.json", result)
    draw_relation(rows, folder / "interference.png")
    draw_examples(folder)
    print(json.dumps(result["rank_correlation"], indent=2))
    for row in rows:
        lost = ", ".join(f"{name} {share:+.2f}" for name, share in row["style_lost"].items())
        print(
            f"{row['mix']:34s} {row['from_factors']['over_chance']:6.1f} {row['on_base']['agreement']:+.2f} "
            f"{row['on_base']['louder']:.2f} fall {row['prompt_fall']:.2f} "
            f"object {row['accuracy']['object']:.2f} lost {lost}"
        )


if __name__ == "__main__":
    main()
