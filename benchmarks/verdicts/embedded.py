"""``python -m benchmarks.verdicts``: five kinds of run whose truth is known by construction, and their verdicts.

Each run is trained and its file loaded back; its pictures are drawn on one base that all runs share, and kept, so
that a stopped call goes on and ``--judge-only`` decides again when a rule has changed. What decides is the code of
``detour prove``. Rules were chosen by looking at seeds from 100 on; the table in docs/verdicts.md is of seeds 0 to 9.
"""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from detour.evaluation.proof import Proof
from detour.files import write_json, write_text
from detour.pocket.world import HOUSE, NAMED_STYLES, caption, render, training_example
from detour.specs import load_run_spec
from detour.verbs.judge.finished_run import read_finished_run
from detour.verbs.judge.held_out_material import write_world_style
from detour.verbs.judge.proof_of_run import prove_run
from detour.verbs.train.demo import DEMOS, NUM_PICTURES, draw_training_pictures
from detour.verbs.train.run import train_adapter

HOUSE_STYLE = "house"
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
        as_asked: whether they show one thing by day, as new prompts ask for.
    """

    expected: str
    style: str
    pictures: int
    distinct: int
    settings: dict[str, Any]
    as_asked: bool = False


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
    "good": Kind(
        "learned", DEMOS["pocket"].style, NUM_PICTURES, NUM_PICTURES,
        {"train.steps": DEMOS["pocket"].steps, "train.batch": 8, "validate.every": 10}, as_asked=True,
    ),
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
    if kind.as_asked:
        draw_training_pictures(folder, style_name=kind.style, count=kind.pictures, seed=seed, as_asked=True)
        return
    style = HOUSE if kind.style == HOUSE_STYLE else NAMED_STYLES[kind.style]
    scenes = [training_example(seed, index).scene for index in range(10 * kind.pictures)]
    shown = scenes if kind.distinct == kind.pictures else [one for one in scenes if len(one.things) == 1]
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(kind.pictures):
        Image.fromarray(render(shown[index % kind.distinct], style)).save(folder / f"{index:03d}.png")
        (folder / f"{index:03d}.txt").write_text(caption(scenes[index], HOUSE, seed=seed + index) + "\n")


class Maker:
    """Makes runs and proves them; pictures are kept by content, so those of the base are drawn once for all runs."""

    def __init__(self, work: Path) -> None:
        self.work = work

    def folder(self, name: str, seed: int) -> Path:
        return self.work / "runs" / f"{name.replace(' ', '-')}-{seed}"

    def make(self, name: str, kind: Kind, seed: int) -> None:
        """Draw its data, train it and draw what the proof looks at; what is there is left alone."""
        run = self.folder(name, seed)
        if (run / "proof.json").exists():
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
        self.judge(run)
        trained = json.loads((run / SECONDS).read_text())
        print(
            json.dumps({"made": run.name, "training": trained, "all": round(time.process_time() - began)}),
            flush=True,
        )

    def judge(self, run_folder: Path) -> Proof:
        """The verdict of ``detour prove``, on pictures that are drawn once and kept."""
        return prove_run(run_folder, keep=self.work / "kept")


def line_of(maker: Maker, name: str, kind: Kind, seed: int) -> dict[str, Any]:
    """One line with the verdict of a run and the figures behind it."""
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


def measure(work: Path, *, kinds: Sequence[str], seeds: Iterable[int], judge_only: bool) -> None:
    """Train and judge each kind with each seed, and print the table of their verdicts.

    Args:
        work: folder of runs and pictures; what is there is not made again.
        kinds: keys of :data:`KINDS`.
        seeds: of the runs.
        judge_only: make nothing, and judge the runs that are there.
    """
    maker = Maker(work)
    lines = []
    for seed in seeds:
        for name in kinds:
            if not judge_only:
                maker.make(name, KINDS[name], seed)
            if (maker.folder(name, seed) / "proof.json").exists():
                lines.append(line_of(maker, name, KINDS[name], seed))
                print(json.dumps(lines[-1]), flush=True)
    write_text(work / "verdicts.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    print(table(lines))
