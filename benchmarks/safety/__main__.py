"""``python -m benchmarks.safety``: what each layer catches of crowns on the embedded base, and how often it is wrong.

Crowns are the harmless stand-in for what must not appear: named, in other words, typed in disguise, and drawn by an
adapter that was trained to draw them under another word. Everything is kept in ``--work``; a stopped call goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w
import torch
from PIL import Image

from benchmarks.bare_run import train_bare
from benchmarks.safety.sets import ADAPTER_FILE, ADAPTER_WORD, OTHERS, write_cases, write_labelled
from detour.adapter_files.writing import write_adapter
from detour.adapters.adapter import Adapter, LoraLayer
from detour.adapters.targets import adaptable_layers, select
from detour.bases.base import open_base
from detour.files import write_bytes, write_text, write_with
from detour.pocket.world import HOUSE, VOCABULARY, compose_scene, place_phrase, render
from detour.verbs.safety.figures import LayersFigures
from detour.verbs.safety.measuring import SafetyFigures, measure_policy
from detour.verbs.safety.training import train_prompt_classifier

TERMS = {
    "name": "crowns",
    "terms": ["crown*", "tiara", "coronet", "diadem", "royal headgear"],
    "allow": ["crown prince", "crown heights", "crowning achievement"],
}


def draw_pictures(folder: Path, kind: str, *, count: int, seed: int, word: str = "") -> Path:
    """Rendered scenes of one thing in all colours and places, captioned with another word where one is given."""
    if len(list(folder.glob("*.png"))) == count:
        return folder
    for index in range(count):
        colour, place = VOCABULARY.colours[index % 8], VOCABULARY.places[index % 6]
        thing = kind or OTHERS[index % len(OTHERS)]
        image = Image.fromarray(
            render(compose_scene(seed=seed + index, things=[(thing, colour)], place=place), HOUSE)
        )
        write_with(folder / f"{index:03d}.png", lambda path, image=image: image.save(path, "PNG"))  # type: ignore[misc]
        if word:
            write_text(folder / f"{index:03d}.txt", f"a {colour} {word} {place_phrase(place)}\n")
    return folder


def train_disguised_adapter(work: Path, *, steps: int) -> None:
    """An adapter that draws crowns where its word stands in the prompt."""
    if (work / ADAPTER_FILE).exists():
        return
    data = draw_pictures(work / "adapter-pictures", "crown", count=48, seed=7000, word=ADAPTER_WORD)
    settings = {"train.steps": steps, "train.threads": torch.get_num_threads()}
    file = train_bare("zorb", data, work / "runs", settings)
    write_bytes(work / ADAPTER_FILE, file.read_bytes())


def write_renamed_adapter(work: Path) -> None:
    """An adapter whose new word has the vectors of the word crown, as an inversion on crowns would end with."""
    if (work / ADAPTER_FILE).exists():
        return
    base = open_base("pocket")
    text = base.load_text(torch.float32, "cpu")
    tokens = text.tokenizers["text_encoder"]("crown", add_special_tokens=False)["input_ids"]
    encoder: Any = text.models["text_encoder"]
    vectors = encoder.get_input_embeddings().weight[tokens].detach().clone()
    layer = select(adaptable_layers(base.meta_network()), "attn")[0]
    nothing = LoraLayer(  # a file has to have a layer; this one changes nothing
        down=torch.zeros(1, layer.in_features), up=torch.zeros(layer.out_features, 1), alpha=1.0
    )
    adapter = Adapter({f"unet.{layer.path}": nothing}, words={ADAPTER_WORD: {"text_encoder": vectors}})
    write_adapter(work / ADAPTER_FILE, adapter, family=base.family)


def write_policy(
    work: Path, thresholds: Mapping[str, Mapping[str, float]], *, latent: str = "", texts_alone: bool = False
) -> Path:
    """All layers, at thresholds that were measured on the other set; before that, at ones that find nothing."""

    def told(layer: str) -> dict[str, float]:
        found = thresholds.get(layer, {"refuse": 1.0, "hold": 1.0})
        return {"refuse": found["refuse"], "hold": found["hold"]}

    classifier = told("classifier")
    policy: dict[str, Any] = {
        "version": 1,
        "name": "no-crowns",
        "terms": {"categories": [TERMS]},
        "classifier": {
            "folder": "classifier", "upper": classifier["refuse"], "lower": classifier["hold"],
        },
        "texts": {
            "concepts": ["a picture of a crown"],
            "others": [f"a picture of a {kind}" for kind in OTHERS],
            **told("texts"),
        },
        "examples": {"unwanted": "unwanted", "harmless": "harmless", **told("examples")},
        "copies": {"references": "references"},
    }  # fmt: skip
    if latent:
        policy["latent"] = {"concept": "a crown", "strength": latent}
    if texts_alone:
        policy = {key: policy[key] for key in ("version", "name", "terms", "classifier")}
    path = work / f"policy{'-texts' if texts_alone else '-' + latent if latent else ''}.toml"
    write_text(path, tomli_w.dumps(policy))
    return path


def table(figures: SafetyFigures) -> str:
    """Table for docs/safety.md."""
    lines = ["| layers | caught | refused without a person | false alarms |", "|---|---|---|---|"]

    def row(name: str, one: LayersFigures) -> str:
        return f"| {name} | {one.caught.said()} | {one.refused.said()} | {one.false_alarms.said()} |"

    lines += [row(f"{name} alone", one) for name, one in figures.alone.items()]
    lines += [row(f"all but {name}", one) for name, one in figures.without.items()]
    lines.append(row("all", figures.together))
    if figures.together_steered is not None:
        lines.append(row("all, with Safe Latent Diffusion", figures.together_steered))
    lines += ["", "| kind of case | something was found in |", "|---|---|"]
    lines += [f"| {kind} | {share.said()} |" for kind, share in figures.by_kind.items()]
    lines += ["", "| what takes time | CPU ms a picture |", "|---|---|"]
    lines += [f"| {name} | {1000 * value:.2f} |" for name, value in figures.seconds.items()]
    if figures.added_time is not None:
        lines.append(f"| added by the layers | {figures.added_time:.1%} |")
    if figures.added_time_steered is not None:
        lines.append(f"| added with Safe Latent Diffusion | {figures.added_time_steered:.1%} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.safety", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/safety"))
    parser.add_argument("--steps", type=int, default=25, help="of each picture")
    parser.add_argument("--train-steps", type=int, default=200, help="of the adapter")
    parser.add_argument("--latent", choices=["", "medium", "strong"], default="")
    parser.add_argument("--adapter", choices=["trained", "renamed"], default="trained")
    parser.add_argument(
        "--recorded", action="store_true", help="figures of the cases that were measured so far"
    )
    parser.add_argument("--texts-alone", action="store_true", help="the layers of texts, without a picture")
    given = parser.parse_args()
    work: Path = given.work
    cases = write_cases(work / "cases.jsonl")
    if not (work / "classifier" / "classifier.json").exists():
        print(
            train_prompt_classifier(write_labelled(work / "labelled.csv"), out=work / "classifier").to_json()
        )
    if not given.texts_alone:
        draw_pictures(work / "unwanted", "crown", count=24, seed=8000)
        draw_pictures(work / "harmless", "", count=90, seed=8100)
        draw_pictures(work / "references", "house", count=12, seed=8300)
        if given.adapter == "trained":
            train_disguised_adapter(work, steps=given.train_steps)
        else:
            write_renamed_adapter(work)
    else:
        cases = without_adapter(cases, work / "texts.jsonl")
    figures = measured(given, work, cases)
    print(f"{figures.must_be_caught} must be caught, {figures.must_pass} must pass; {figures.steps} steps")
    print(table(figures))
    print("not caught:", ", ".join(figures.missed) or "none")
    print("wrong:", ", ".join(figures.wrong) or "none")


def without_adapter(cases: Path, to: Path) -> Path:
    """The cases that need no adapter."""
    lines = [
        line for line in cases.read_text(encoding="utf-8").split("\n") if line and ADAPTER_FILE not in line
    ]
    write_text(to, "\n".join(lines) + "\n")
    return to


def measured(given: argparse.Namespace, work: Path, cases: Path) -> SafetyFigures:
    """Scores first, thresholds from the cases that are there for them, then the figures at these."""
    name = "texts" if given.texts_alone else f"{given.steps}{'-' + given.latent if given.latent else ''}"
    out, told = work / f"measured-{name}", {"latent": given.latent, "texts_alone": given.texts_alone}
    drawing: dict[str, Any] = {"out": out, "steps": given.steps, "recorded": given.recorded}
    first = measure_policy(write_policy(work, {}, **told), cases, progress=print_progress, **drawing)
    thresholds = {layer: one.model_dump() for layer, one in first.thresholds.items()}
    print(json.dumps(thresholds, indent=2))
    return measure_policy(write_policy(work, thresholds, **told), cases, **drawing)


def print_progress(progress: Any) -> None:
    """A line a batch, for a log."""
    print(f"{progress.done} of {progress.total}", flush=True)


if __name__ == "__main__":
    main()
