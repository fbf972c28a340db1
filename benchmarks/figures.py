"""``python -m benchmarks.figures``: what every figure of an evaluation is where nothing was learned.

The embedded base draws the same prompts again and again, each time from other seeds, and each set is judged as if an
adapter had drawn it and the set before it were the base's. What the figures are then is their noise: what an adapter
has to exceed. With ``--lora FILE`` an adapter is judged in the same way, on the seeds of each set but the last. A
stopped call goes on where it was.
"""

import argparse
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from detour.adapter_files import read_adapter
from detour.adapters.attach import attach_adapter
from detour.bases.base import open_base
from detour.bases.embedded import EMBEDDED
from detour.evaluation.compared import Side
from detour.evaluation.diversity import measure_diversity
from detour.evaluation.drift import measure_drift
from detour.evaluation.feature_cache import FeatureCache
from detour.evaluation.fidelity import measure_fidelity
from detour.evaluation.judge import Judge, PromptFacts, judge_of
from detour.evaluation.pixels import Pictures
from detour.evaluation.prompt_keeping import Hits, measure_prompt_keeping
from detour.evaluation.thresholds import COLLAPSE_SHARE_MAX
from detour.generation.engine import PictureEngine, PictureRequest
from detour.pocket.world import (
    NAMED_STYLES,
    VOCABULARY,
    PromptedScene,
    compose_scene,
    held_out_prompts,
    plain_prompt,
    render,
)
from detour.specs import PictureSpec

STYLE = "comic"
REFERENCES_A_PROMPT = 4
PROMPT_SEED = 7
WORDS = {"object": VOCABULARY.objects, "colour": VOCABULARY.colours, "place": VOCABULARY.places}


class Bench:
    """Prompts, references, and the models that draw and judge."""

    def __init__(self, folder: Path, *, prompts: int, seeds: int, steps: int) -> None:
        self.folder, self.seeds, self.spec = folder, seeds, PictureSpec(steps=steps)
        self.asked = held_out_prompts(prompts, seed=PROMPT_SEED)
        self.engine = PictureEngine.load(open_base("pocket"))
        self.judge = Judge.load(judge_of(EMBEDDED["pocket"].folder), cache=FeatureCache(folder / "features"))
        self.facts = [
            PromptFacts(object=one.object, colour=one.colour, place=one.place) for one in self.asked
        ]
        self.prompt_features = self.judge.text_features([one.prompt for one in self.asked])
        self.references = self.judge.picture_features(self.true_pictures(REFERENCES_A_PROMPT, first=10_000))
        self.truths = self.true_pictures(seeds, first=1)

    def true_pictures(self, each: int, *, first: int) -> Pictures:
        """Renders of each prompt in the style, prompt-major, each in a scene of its own."""

        def drawn(one: PromptedScene, seed: int) -> np.ndarray:
            scene = compose_scene(seed=seed, things=[(one.object, one.colour)], place=one.place)
            return render(scene, NAMED_STYLES[STYLE])

        return np.stack(
            [drawn(one, first + 100 * i + k) for i, one in enumerate(self.asked) for k in range(each)]
        )

    def pictures(self, number: int, who: str) -> Pictures:
        """Pictures of set ``number``, prompt-major, kept in the folder."""
        path = self.folder / f"{who}-{number}-{len(self.asked)}x{self.seeds}-{self.spec.steps}.npy"
        if not path.exists():
            first = 5000 + 1000 * number
            requests = [
                PictureRequest(prompt=one.prompt, seed=first + self.seeds * i + k)
                for i, one in enumerate(self.asked)
                for k in range(self.seeds)
            ]
            np.save(path, self.engine.draw(requests, self.spec, batch=8).pictures)
        found: Pictures = np.load(path)
        return found

    def figures(self, base: Pictures, adapter: Pictures) -> dict[str, float | None]:
        """All figures of one pair of sets."""
        pictures: dict[Side, Pictures] = {"base": base, "adapter": adapter}
        picture_features = {side: self.judge.picture_features(rows) for side, rows in pictures.items()}
        hits: dict[Side, Hits] = {side: self.hits(rows) for side, rows in pictures.items()}
        shown = [i // REFERENCES_A_PROMPT for i in range(len(self.references))]
        true = self.judge.picture_features(self.truths)
        near = measure_fidelity(
            picture_features, self.references, seeds=self.seeds, others=true, prompt_of_reference=shown
        )
        kept = measure_prompt_keeping(
            picture_features, self.prompt_features, seeds=self.seeds, truths=true, hits=hits
        )
        moved = measure_drift(pictures, picture_features, self.prompt_features, seeds=self.seeds, hits=hits)
        spread = measure_diversity(
            pictures,
            picture_features,
            seeds=self.seeds,
            share_max=COLLAPSE_SHARE_MAX,
            truths=(self.truths, true),
        )
        within, across = spread.within_prompt, spread.across_prompts
        assert within is not None
        assert across is not None
        assert kept.parts is not None
        return {
            "style (1 - adapter/base)": near.style,
            "style distance": near.style_distance.adapter,
            "style distance, ceiling": near.style_distance.ceiling,
            "p: no nearer than the base": near.nearer_p,
            "p: alike to the references": near.told_apart_p.adapter,
            "p: alike to the references, ceiling": near.told_apart_p.ceiling,
            "CMMD": near.cmmd.adapter,
            "CMMD, ceiling": near.cmmd.ceiling,
            "similarity to the references": near.similarity.adapter,
            "similarity, ceiling": near.similarity.ceiling,
            "CLIP score": kept.clip_score.adapter,
            "CLIP score, ceiling": kept.clip_score.ceiling,
            "CLIP change": kept.clip_change.mean,
            "CLIP change told": float(kept.clip_change.significant),
            **{f"{slot} change": part.change.mean for slot, part in kept.parts.items()},
            **{f"{slot} change told": float(part.change.significant) for slot, part in kept.parts.items()},
            "drift, judge": moved.judge.adapter,
            "drift, judge, share of another seed's": moved.judge.share,
            "drift, pixels": moved.pixels.adapter,
            "drift, pixels, share of another seed's": moved.pixels.share,
            "spread within a prompt, judge": within.judge.adapter,
            "spread within a prompt, judge, share": within.judge.adapter / within.judge.base,
            "spread within a prompt, judge, ceiling": within.judge.ceiling,
            "spread within a prompt, pixels": within.pixels.adapter,
            "spread within a prompt, pixels, kept": within.kept(),
            "spread within a prompt, pixels, ceiling": within.pixels.ceiling,
            "spread across prompts, judge": across.judge.adapter,
            "spread across prompts, pixels": across.pixels.adapter,
            "spread across prompts, pixels, kept": across.kept(),
            "spread across prompts, pixels, ceiling": across.pixels.ceiling,
        }

    def hits(self, pictures: Pictures) -> Hits:
        """Slot → whether each picture shows its word."""
        facts = [fact for fact in self.facts for _ in range(self.seeds)]
        return self.judge.prompt_hits(
            pictures, facts, WORDS, lambda one: plain_prompt(one.object, one.colour, one.place)
        )


def table(rows: Sequence[dict[str, Any]], title: str) -> str:
    """Mean, lowest and highest of every figure, as Markdown."""
    lines = [f"| {title} | mean | lowest | highest |", "|---|---|---|---|"]
    for name in rows[0]:
        values = [float(row[name]) for row in rows if row[name] is not None]
        cells = " | ".join(f"{value:.3f}" for value in (np.mean(values), min(values), max(values)))
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    """Draw and score all sets, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/figures"))
    parser.add_argument("--sets", type=int, default=9)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--lora", type=Path)
    spec = parser.parse_args()
    spec.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(spec.out, prompts=spec.prompts, seeds=spec.seeds, steps=spec.steps)
    base = [bench.pictures(number, "base") for number in range(spec.sets)]
    noise = [bench.figures(before, after) for before, after in pairwise(base)]
    found = {"noise": noise}
    print(table(noise, f"the base with other seeds, {len(noise)} times"), flush=True)
    if spec.lora is not None:
        attached = attach_adapter(bench.engine.models, read_adapter(spec.lora), 1.0)
        found["adapter"] = [
            bench.figures(plain, bench.pictures(number, spec.lora.stem))
            for number, plain in enumerate(base[:-1])
        ]
        attached.detach()
        print(table(found["adapter"], f"{spec.lora.stem}, {len(found['adapter'])} times"), flush=True)
    (spec.out / "figures.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
