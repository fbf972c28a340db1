"""``python -m benchmarks.few_step_styles OUT DISTILLED``: how much of a style survives few steps, and what mends it.

For each style of the drawn world: an adapter trained on the plain base, drawn in many guided steps; in four guided
steps; in four steps with the distilled file, at several strengths; and, with ``--beside``, an adapter that was trained
on the base with the distilled file merged into it. The gain of a way is the share by which it brings pictures nearer
to true ones of the style, by the judge's features: ``1 − d(adapter) / d(without)``, each against what the same way
draws without the adapter. What survives is its share of the gain in many steps.

A style that is done stands in ``OUT/STYLE.json`` and is not measured again; ``OUT/figures.json`` puts them together.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detour.bases.base import Base, open_base
from detour.evaluation.distance import style_distance
from detour.evaluation.judge import Judge, judge_of
from detour.files import write_json
from detour.generation.engine import AdapterInUse, PictureEngine, PictureRequest
from detour.generation.few_steps import KINDS
from detour.pocket.world import NAMED_STYLES, PALETTES, held_out_prompts, render
from detour.specs import load_run_spec
from detour.specs.generation import PictureSpec
from detour.verbs.adapter_tools import merge_adapters
from detour.verbs.chosen_adapters import choose_adapter
from detour.verbs.train.demo import draw_training_pictures
from detour.verbs.train.run import train_adapter

STRENGTHS = (0.7, 1.0, 1.3, 1.6)
LCM = PictureSpec.model_validate(KINDS["lcm"].settings)


@dataclass(frozen=True, kw_only=True)
class Study:
    """What every style is measured with.

    Attributes:
        out: folder of runs and results.
        distilled: the file for few steps.
        steps: of training.
        pictures: that are trained on.
        prompts: that are drawn.
        many: steps of the pictures that few steps are compared with.
        beside: whether to train on the base with the distilled file merged, too.
    """

    out: Path
    distilled: Path
    steps: int
    pictures: int
    prompts: int
    many: int
    beside: bool

    def train(self, style: str, base: str, name: str) -> Path:
        """The file of an adapter of the style; one that was trained before is taken."""
        name = name.replace(" ", "-")
        file = self.out / "runs" / name / f"{name}.safetensors"
        if (file.parent / "gradients.json").is_file():
            return file
        if file.parent.is_dir():
            return train_adapter(None, resume=file.parent, prove=False).adapter_file
        data = self.out / "pictures" / style
        draw_training_pictures(data, style_name=style, count=self.pictures, seed=3)
        flags = {
            "name": name,
            "base.name": base,
            "data.source": str(data),
            "train.steps": self.steps,
            "train.threads": 1,
            "train.loss.caption_dropout": 0.0,
            "adapter.rank": 4,
            "adapter.targets": "all",
            "train.optim.lr": 1.2e-2,
            "train.batch": 8,
            "data.holdout": 0.0,
            "sample.every": 0,
            "validate.every": 0,
        }
        return train_adapter(load_run_spec(flags=flags), runs=self.out / "runs", prove=False).adapter_file


def in_use(base: Base, file: Path, weight: float = 1.0) -> AdapterInUse:
    """A file as a request carries it."""
    chosen = choose_adapter(str(file), base)
    return AdapterInUse(adapter=chosen.adapter, weight=weight, sha256=chosen.use.sha256)


def measure_style(
    study: Study, style: str, base: Base, engine: PictureEngine, judge: Judge
) -> dict[str, Any]:
    """Distances with and without the adapter, gains, and what survives, way by way."""
    asked = held_out_prompts(study.prompts, seed=11)
    looks = judge.picture_features(
        np.stack([render(one.scene, (NAMED_STYLES | PALETTES)[style]) for one in asked])
    )
    fast = in_use(base, study.distilled)

    def distance(how: PictureSpec, *adapters: AdapterInUse) -> float:
        requests = [
            PictureRequest(prompt=one.prompt, seed=100 + place, how=how, adapters=adapters)
            for place, one in enumerate(asked)
        ]
        seen: Tensor = judge.picture_features(engine.draw(requests, batch=8).pictures)
        return style_distance(seen, looks)

    def way(how: PictureSpec, without: float, *adapters: AdapterInUse) -> dict[str, float]:
        with_it = distance(how, *adapters)
        return {"distance": with_it, "without": without, "gain": 1 - with_it / without}

    own = study.train(style, base.name, style)
    many, few = PictureSpec(steps=study.many), PictureSpec(steps=4)
    found = {
        "many steps": way(many, distance(many), in_use(base, own)),
        "4 guided steps": way(few, distance(few), in_use(base, own)),
    }
    plain = distance(LCM, fast)
    for strength in STRENGTHS:
        found[f"distilled, strength {strength:g}"] = way(LCM, plain, fast, in_use(base, own, strength))
    if study.beside:
        merged = study.out / "base-few"
        if not merged.is_dir():
            merge_adapters(base.name, [str(study.distilled)], out=merged, pictures=0)
        other = study.train(style, str(merged), f"{style}-beside")
        found["distilled, trained beside it"] = way(LCM, plain, fast, in_use(base, other))
    whole = found["many steps"]["gain"]
    for row in found.values():
        row["survives"] = row["gain"] / whole if whole > 0 else float("nan")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the styles that are not done, and put all together."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("distilled", type=Path)
    parser.add_argument(
        "--styles", nargs="+", default=["dusk", "comic", "watercolour", "stained glass", "blueprint"]
    )
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--many", type=int, default=20)
    parser.add_argument("--beside", action="store_true")
    asked = vars(parser.parse_args(arguments))
    torch.set_num_threads(1)
    styles = asked.pop("styles")
    study = Study(**asked)
    base = open_base("pocket")
    engine, judge = PictureEngine.load(base), Judge.load(judge_of(base.folder))
    every: dict[str, Any] = {}
    for style in styles:
        place = study.out / f"{style.replace(' ', '-')}.json"
        if not place.is_file():
            began = time.process_time()
            ways = measure_style(study, style, base, engine, judge)
            write_json(place, {"ways": ways, "cpu_seconds": round(time.process_time() - began, 1)})
        every[style] = json.loads(place.read_text(encoding="utf-8"))["ways"]
    names = list(next(iter(every.values())))
    figures = {
        "styles": every,
        "median of what survives": {
            name: round(median(ways[name]["survives"] for ways in every.values()), 3) for name in names
        },
    }
    write_json(study.out / "figures.json", figures)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
