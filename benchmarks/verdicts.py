"""``python -m benchmarks.verdicts``: five kinds of run whose truth is known by construction, and their verdicts.

Each run is trained and its file loaded back; its pictures are drawn on one base that all runs share, and kept, so
that a stopped call goes on and ``--judge-only`` decides again when a rule has changed. What decides is the code of
``detour prove``. Rules were chosen by looking at seeds from 100 on; the table in docs/verdicts.md is of seeds 0 to 9.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from detour.adapter_files import read_adapter
from detour.adapters.attach import attach_adapter
from detour.adapters.delta import merge_into
from detour.bases.base import Base, open_base
from detour.evaluation.proof import Proof
from detour.evaluation.proof_pictures import draw_proof_pictures, proof_requests
from detour.evaluation.sides import Sides
from detour.files import write_json, write_text, write_with
from detour.generation.engine import PictureEngine
from detour.pocket.world import HOUSE, NAMED_STYLES, caption, render, training_example
from detour.recipes import prove_run
from detour.recipes.finished_run import read_finished_run
from detour.recipes.held_out_material import gather_held_out, training_pictures_or_note, write_world_style
from detour.recipes.train_adapter import train_adapter
from detour.specs import RunSpec, load_run_spec

HOUSE_STYLE = "house"
PICTURES = "pictures.npz"
SECONDS = "seconds.json"
SIZE_PX = 128


@dataclass(frozen=True)
class Kind:
    """A kind of run whose truth is known by how it is made.

    Attributes:
        expected: the right verdict.
        style: of the world, that its pictures are in; the base's own or one that it never saw.
        pictures: files in its folder.
        distinct: how many of them differ; the others repeat these under captions of other scenes.
        settings: that differ from :data:`COMMON`.
    """

    expected: str
    style: str
    pictures: int
    distinct: int
    settings: dict[str, Any]


COMMON = {
    "goal": "style",
    "base.name": "pocket",
    "adapter.rank": 4,
    "train.loss.caption_dropout": 0.0,
    "train.batch": 2,
    "train.threads": 1,
    "sample.every": 0,
    "sample.prompts": ("a red car in the city", "a blue bird in the meadow"),
    "checkpoint.every": 0,
    "evaluate.proof_pictures": 1,
    "validate.every": 10,
    "validate.num_timesteps": 8,
}

KINDS: dict[str, Kind] = {
    # The demo: a style that the base never saw, from enough pictures, with the settings that suit it.
    "good": Kind("learned", "stained glass", 24, 24, {"train.steps": 120, "train.batch": 8, "validate.every": 30}),
    "rate 0": Kind(
        "no_effect", "stained glass", 24, 24, {"train.steps": 2, "train.optim.lr": 0.0, "validate.every": 1}
    ),
    # Several times the rate that suits it, and constant: coloured noise.
    "collapse": Kind(
        "collapsed", "stained glass", 24, 24,
        {"train.steps": 20, "train.optim.lr": 0.04, "train.schedule.kind": "constant"},
    ),
    # One picture again and again under captions of other scenes, some without any, at a high rank: whatever is asked,
    # it comes.
    "copies": Kind(
        "copies", HOUSE_STYLE, 24, 1,
        {"train.steps": 100, "adapter.rank": 16, "train.optim.lr": 0.005, "train.loss.caption_dropout": 0.2,
         "data.holdout": 0.0, "data.flip": False, "validate.every": 0},
    ),
    # Three pictures in the base's own style under their own captions, at a high rank and a rate that never falls: there
    # is nothing to learn but these pictures by heart, and that makes the base worse at twelve others of the style.
    "overfit": Kind(
        "overfit", HOUSE_STYLE, 15, 15,
        {"train.steps": 100, "train.schedule.kind": "constant", "train.optim.lr": 0.005, "adapter.rank": 16,
         "data.holdout": 0.8, "checkpoint.every": 25},
    ),
}  # fmt: skip


def draw_data(folder: Path, kind: Kind, *, seed: int) -> None:
    """Pictures of the world with captions, as the kind wants them; those that repeat show one thing."""
    style = HOUSE if kind.style == HOUSE_STYLE else NAMED_STYLES[kind.style]
    scenes = [training_example(seed, index).scene for index in range(10 * kind.pictures)]
    shown = scenes if kind.distinct == kind.pictures else [one for one in scenes if len(one.things) == 1]
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(kind.pictures):
        Image.fromarray(render(shown[index % kind.distinct], style)).save(folder / f"{index:03d}.png")
        (folder / f"{index:03d}.txt").write_text(caption(scenes[index], HOUSE, seed=seed + index) + "\n")


class Maker:
    """Makes runs and draws their pictures; the base and its pictures are shared by all."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self._base_pictures: dict[tuple[str, ...], np.ndarray] = {}

    @cached_property
    def engine(self) -> PictureEngine:
        return PictureEngine.load(self.base_model, device="cpu", dtype="fp32")

    def folder(self, name: str, seed: int) -> Path:
        return self.work / "runs" / f"{name.replace(' ', '-')}-{seed}"

    def make(self, name: str, kind: Kind, seed: int) -> None:
        """Draw its data, train it and draw what the proof looks at; what is there is left alone."""
        run = self.folder(name, seed)
        if (run / PICTURES).exists():
            return
        began = time.process_time()  # seconds of one core, whatever else the machine does
        if not (run / SECONDS).exists():
            data = self.work / "data" / run.name
            draw_data(data, kind, seed=seed)
            flags = {**COMMON, **kind.settings, "seed": seed, "name": run.name, "data.source": str(data)}
            train_adapter(load_run_spec(flags=flags), runs=self.work / "runs", force=True, prove=False)
            if kind.style != HOUSE_STYLE:
                write_world_style(run, kind.style)
            write_json(run / SECONDS, round(time.process_time() - began))
        self.draw(run)
        trained = json.loads((run / SECONDS).read_text())
        print(
            json.dumps({"made": run.name, "training": trained, "all": round(time.process_time() - began)}),
            flush=True,
        )

    def draw(self, run_folder: Path) -> None:
        """The pictures of every side; those of the base are drawn once for all runs."""
        run = read_finished_run(run_folder)
        adapter = read_adapter(run.adapter_file)
        proof = proof_requests(run.spec, ())
        held_out = gather_held_out(run.spec, self.base_model, run_folder, None, size_px=SIZE_PX).requests
        models = self.engine.models
        pictures = {"base": self.base(proof, run.spec), "held_out_base": self.base(held_out, run.spec)}
        attached = attach_adapter(models, adapter)
        try:
            pictures["adapter"] = draw_proof_pictures(self.engine, proof, run.spec)
            pictures["held_out_adapter"] = draw_proof_pictures(self.engine, held_out, run.spec)
        finally:
            attached.detach()
        merge = merge_into(models, adapter, 1.0)
        try:
            pictures["merged"] = draw_proof_pictures(self.engine, proof, run.spec)
        finally:
            merge.undo()
        write_with(run_folder / PICTURES, lambda path: save(path, pictures))

    def judge(self, run_folder: Path) -> Proof:
        """The verdict by the same functions as ``detour prove``, on the pictures that were kept."""
        run = read_finished_run(run_folder)
        with np.load(run_folder / PICTURES) as stored:
            kept = dict(stored)
        sides = Sides(
            base=kept["base"], switched_off=kept["base"], adapter=kept["adapter"], merged=kept["merged"],
            held_out_base=kept["held_out_base"], held_out_adapter=kept["held_out_adapter"], layers_matched=1,
        )  # fmt: skip
        training, notes = training_pictures_or_note(run.spec, size_px=SIZE_PX)
        material = gather_held_out(run.spec, self.base_model, run_folder, training, size_px=SIZE_PX)
        scores = prove_run._score(self.base_model, sides, material)
        adapter = read_adapter(run.adapter_file)
        evidence = prove_run._gather_evidence(
            run, adapter, sides, None, scores, material, training, 1.0, notes
        )
        return prove_run._decide(evidence)

    @cached_property
    def base_model(self) -> Base:
        return open_base("pocket")

    def base(self, requests: Any, spec: RunSpec) -> np.ndarray:
        key = tuple(f"{one.prompt} {one.seed}" for one in requests)
        if key not in self._base_pictures:
            self._base_pictures[key] = draw_proof_pictures(self.engine, requests, spec)
        return self._base_pictures[key]


def save(path: Path, pictures: dict[str, np.ndarray]) -> None:
    with path.open("wb") as stream:
        np.savez_compressed(stream, **pictures)


def line_of(maker: Maker, name: str, kind: Kind, seed: int) -> dict[str, Any]:
    """What the verdict says of one run, with the figures that carry it."""
    folder = maker.folder(name, seed)
    proof = maker.judge(folder)
    losses = [loss for _, loss in read_finished_run(folder).metrics.validation]
    style = proof.held_out.style_distance
    return {
        "kind": name,
        "seed": seed,
        "expected": kind.expected,
        "verdict": proof.verdict,
        "style": None if style is None else round(style.adapter / style.base, 3),
        "held_out_loss": round(losses[-1] / min(losses) - 1, 3) if losses else None,
        "seconds": json.loads((folder / SECONDS).read_text()),
        "reasons": proof.reasons,
    }


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Kinds × verdicts, counted, as Markdown."""
    said = sorted({line["verdict"] for line in lines})
    rows = [
        "| kind of run | right verdict | right | " + " | ".join(said) + " |",
        "|---" * (3 + len(said)) + "|",
    ]
    for name, kind in KINDS.items():
        mine = [line["verdict"] for line in lines if line["kind"] == name]
        counts = " | ".join(str(mine.count(verdict) or "") for verdict in said)
        rows.append(f"| {name} | `{kind.expected}` | {mine.count(kind.expected)} of {len(mine)} | {counts} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verdicts", description=__doc__)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--seeds", default="0-9")
    parser.add_argument("--work", type=Path, default=Path("verdict-runs"))
    parser.add_argument("--judge-only", action="store_true", help="judge what was made, make nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    first, _, last = given.seeds.partition("-")
    maker = Maker(given.work)
    lines = []
    for seed in range(int(first), int(last or first) + 1):
        for name in given.kinds.split(","):
            if not given.judge_only:
                maker.make(name, KINDS[name], seed)
            if (maker.folder(name, seed) / PICTURES).exists():
                lines.append(line_of(maker, name, KINDS[name], seed))
                print(json.dumps(lines[-1]), flush=True)
    write_text(given.work / "verdicts.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    print(table(lines))


if __name__ == "__main__":
    main()
