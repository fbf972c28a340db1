"""``python -m benchmarks.few_guided_steps OUT STYLE=FILE=PICTURES …``: what of a style survives in few guided steps.

For each style: an adapter's FILE, and the PICTURES that it was trained on. The gain of a number of steps is the share
by which the adapter brings pictures of unseen combinations nearer to the style's pictures, by the judge's features:
``1 − d(adapter) / d(without)``, both in that number of steps. What survives is its share of the gain in many steps. The
judge's share of right objects is beside it, for a picture that is all style and shows nothing has gained too.

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
from PIL import Image

from benchmarks.few_step_styles import in_use
from detour.bases.base import Base, open_base
from detour.evaluation.distance import style_distance
from detour.evaluation.judge import Judge, judge_of
from detour.files import write_json
from detour.generation.engine import AdapterInUse, PictureEngine, PictureRequest
from detour.pocket.world import held_out_prompts
from detour.specs.generation import PictureSpec
from detour.verbs.judge.material import WORDS, facts_of_scenes, phrase_of


@dataclass(frozen=True)
class Bench:
    """What all styles are measured with.

    Attributes:
        base: that draws.
        engine: of the base.
        judge: of the base.
        prompts: unseen combinations that are drawn.
        scheduler: sampler of all pictures.
    """

    base: Base
    engine: PictureEngine
    judge: Judge
    prompts: int
    scheduler: Any

    def draw(self, steps: int, *adapters: AdapterInUse) -> np.ndarray:
        """uint8 (prompts, H, W, 3): a picture of each prompt."""
        how = PictureSpec(steps=steps, scheduler=self.scheduler)
        requests = [
            PictureRequest(prompt=one.prompt, seed=100 + place, how=how, adapters=adapters)
            for place, one in enumerate(held_out_prompts(self.prompts, seed=11))
        ]
        return self.engine.draw(requests, batch=8).pictures

    def objects(self, pictures: np.ndarray) -> float:
        """Share of the pictures in which the judge reads the object that was asked for."""
        facts = facts_of_scenes(tuple(held_out_prompts(self.prompts, seed=11)))
        hits = self.judge.prompt_hits(pictures, facts, WORDS, phrase_of)["object"]
        return sum(hits) / len(hits)

    def style(
        self, file: Path, pictures: Path, plain: dict[int, np.ndarray], many: int
    ) -> dict[str, dict[str, float]]:
        """Distances, gain and what survives, by number of steps."""
        paths = sorted(pictures.glob("*.png"))
        looks = self.judge.picture_features(
            np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
        )
        found: dict[str, dict[str, float]] = {}
        for steps, without in plain.items():
            drawn = self.draw(steps, in_use(self.base, file))
            near, far = (style_distance(self.judge.picture_features(one), looks) for one in (drawn, without))
            found[str(steps)] = {
                "distance": near, "without": far, "gain": 1 - near / far, "objects": self.objects(drawn),
            }  # fmt: skip
        for row in found.values():
            row["survives"] = row["gain"] / found[str(many)]["gain"]
        return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the styles that are not done, and put all together."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("styles", nargs="+", metavar="STYLE=FILE=PICTURES")
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 6, 8])
    parser.add_argument("--many", type=int, default=20)
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--scheduler", default="dpm++")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    base = open_base("pocket")
    bench = Bench(
        base, PictureEngine.load(base), Judge.load(judge_of(base.folder)), asked.prompts, asked.scheduler
    )
    plain: dict[int, np.ndarray] = {}
    every: dict[str, Any] = {}
    for text in asked.styles:
        style, file, pictures = text.split("=")
        place = asked.out / f"{style}.json"
        if not place.is_file():
            plain = plain or {steps: bench.draw(steps) for steps in (*asked.steps, asked.many)}
            began = time.process_time()
            found = bench.style(Path(file), Path(pictures), plain, asked.many)
            write_json(place, {"steps": found, "cpu_seconds": round(time.process_time() - began, 1)})
        every[style] = json.loads(place.read_text(encoding="utf-8"))["steps"]
    figures = {
        "setting": {
            "prompts": asked.prompts, "scheduler": asked.scheduler, "many": asked.many, "base": base.identity,
        },
        "styles": every,
        "median": {
            steps: {
                key: round(median(one[steps][key] for one in every.values()), 3)
                for key in ("survives", "objects")
            }
            for steps in next(iter(every.values()))
        },
    }  # fmt: skip
    write_json(asked.out / "figures.json", figures)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
