"""``python -m benchmarks.eta``: what the noise that DDIM adds back does to variety and repeatability.

For each ``eta``: how far pictures of one prompt are apart by seed (variety), how far a picture in 20 steps is from the
same seed's in 40 (repeatability: the same picture, or another one), and the judge's share of right objects. Distances
are mean absolute differences of pixels, of 255.
"""

import argparse
import json
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch

from detour.bases.base import open_base
from detour.evaluation.judge import Judge, judge_of
from detour.evaluation.pixels import mean_abs_diff
from detour.generation.engine import PictureEngine, PictureRequest
from detour.pocket.world import held_out_prompts
from detour.specs.generation import PictureSpec
from detour.verbs.judge.material import WORDS, facts_of_scenes, phrase_of


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every eta, and print one JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--etas", type=float, nargs="+", default=[0.0, 0.5, 1.0])
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    base = open_base("pocket")
    engine, judge = PictureEngine.load(base), Judge.load(judge_of(base.folder))
    scenes = tuple(held_out_prompts(asked.prompts, seed=11))

    def drawn(eta: float, steps: int) -> np.ndarray:
        """(prompts, seeds, H, W, 3)."""
        how = PictureSpec(steps=steps, scheduler="ddim", eta=eta)
        requests = [
            PictureRequest(prompt=one.prompt, seed=seed, how=how)
            for one in scenes
            for seed in range(asked.seeds)
        ]
        pictures = engine.draw(requests, batch=8).pictures
        return pictures.reshape(asked.prompts, asked.seeds, *pictures.shape[1:])

    facts = facts_of_scenes(tuple(one for one in scenes for _ in range(asked.seeds)))
    found: dict[str, Any] = {}
    for eta in asked.etas:
        few, many = drawn(eta, asked.steps), drawn(eta, 2 * asked.steps)
        flat = few.reshape(-1, *few.shape[2:])
        hits = judge.prompt_hits(flat, facts, WORDS, phrase_of)["object"]
        pairs = [mean_abs_diff(row[i], row[j]) for row in few for i, j in combinations(range(asked.seeds), 2)]
        again = [mean_abs_diff(a, b) for a, b in zip(flat, many.reshape(flat.shape), strict=True)]
        found[f"{eta:g}"] = {
            "apart by seed": round(float(np.mean(pairs)), 1),
            "apart from twice the steps": round(float(np.mean(again)), 1),
            "objects": round(sum(hits) / len(hits), 3),
        }
    print(json.dumps({"setting": vars(asked), "eta": found}, indent=2))


if __name__ == "__main__":
    main()
