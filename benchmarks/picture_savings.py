"""``python -m benchmarks.picture_savings``: what changes pictures to save time, and what it costs them.

Guidance in part of the steps, deep features that are reused, both, and fewer steps for comparison. Time is that of
pictures drawn alone, in CPU seconds, the ways in turns, their median; difference and judge's reading are of unseen
combinations of ``pocket``, against those of the plain way. ``--tokens`` measures token merging instead, on one
self-attention.
"""

import argparse
import json
import platform
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from detour.bases.base import open_base
from detour.evaluation.distance import style_distance
from detour.evaluation.judge import Judge, judge_of
from detour.evaluation.pixels import mean_abs_diff
from detour.generation.engine import PictureEngine, PictureRequest
from detour.pocket.world import HOUSE, held_out_prompts, render
from detour.specs.generation import PictureSpec
from detour.verbs.judge.material import WORDS, facts_of_scenes, phrase_of

WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "guidance 0-0.8": {"guidance_interval": (0.0, 0.8)},
    "guidance 0-0.5": {"guidance_interval": (0.0, 0.5)},
    "guidance 0.2-0.8": {"guidance_interval": (0.2, 0.8)},
    "deep every 2": {"deep_every": 2},
    "deep every 3": {"deep_every": 3},
    "deep every 5": {"deep_every": 5},
    "guidance 0-0.5, deep every 2": {"guidance_interval": (0.0, 0.5), "deep_every": 2},
    "half the steps": {},
    "a fifth of the steps": {},
}


def hows_of(steps: int) -> dict[str, PictureSpec]:
    """Settings of each way."""
    hows = {name: PictureSpec(steps=steps, **changes) for name, changes in WAYS.items()}
    hows["half the steps"] = PictureSpec(steps=steps // 2)
    hows["a fifth of the steps"] = PictureSpec(steps=steps // 5)
    return hows


def measure(base_name: str, steps: int, prompts: int, ways: Sequence[str]) -> dict[str, dict[str, float]]:
    """Time, difference and the judge's reading of every way."""
    base = open_base(base_name)
    engine, judge = PictureEngine.load(base), Judge.load(judge_of(base.folder))
    scenes = tuple(held_out_prompts(prompts, seed=11))
    hows, facts = {name: how for name, how in hows_of(steps).items() if name in ways}, facts_of_scenes(scenes)
    true = judge.picture_features(np.stack([render(one.scene, HOUSE) for one in scenes]))
    engine.draw([PictureRequest(prompt="", seed=0, how=PictureSpec(steps=1))])  # warms up
    taken: dict[str, list[float]] = {name: [] for name in hows}
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in hows}
    for place, one in enumerate(scenes):
        for name, how in hows.items():
            began = time.process_time()
            drawn[name].append(
                engine.draw([PictureRequest(prompt=one.prompt, seed=100 + place, how=how)]).pictures
            )
            taken[name].append(time.process_time() - began)
    pictures = {name: np.concatenate(few) for name, few in drawn.items()}
    hits = {name: judge.prompt_hits(few, facts, WORDS, phrase_of) for name, few in pictures.items()}

    def kept(name: str, slot: str) -> float:
        pairs = zip(hits[name][slot], hits["plain"][slot], strict=True)
        both = [mine for mine, was in pairs if was]
        return round(sum(both) / max(len(both), 1), 3)

    return {
        name: {
            "seconds": round(median(taken[name]), 3),
            "faster": round(
                median(a / b for a, b in zip(taken["plain"], taken[name], strict=True)), 2
            ),
            "mean difference of 255": round(mean_abs_diff(few, pictures["plain"]), 2),
            "objects": round(sum(hits[name]["object"]) / prompts, 3),
            **{f"{slot} kept": kept(name, slot) for slot in ("object", "colour", "place")},
            "distance to true pictures": round(style_distance(judge.picture_features(few), true), 4),
        }
        for name, few in pictures.items()
    }  # fmt: skip


def merged_tokens(x: Tensor, share: float, side: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Token merging of one layer's input: one token of every 2 x 2 stays, the most alike of the others join it.

    Args:
        x: (N, side², C).
        share: of all tokens that are merged away.
        side: of the square of tokens.

    Returns:
        (N, kept, C) tokens; indices of the targets (T,), of the tokens that stay apart (N, K), and the assignment
        (N, M) of merged ones.

    Source: Bolya and Hoffman 2023, arXiv:2303.17604 (ToMe for SD), whose target of a cell is drawn; here its corner.
    """
    places = torch.arange(side * side).view(side, side)
    target = places[::2, ::2].flatten()
    mask = torch.ones(side * side, dtype=torch.bool)
    mask[target] = False
    source = places.flatten()[mask]
    unit = functional.normalize(x, dim=-1)
    best, to = (unit[:, source] @ unit[:, target].mT).max(-1)
    order = best.argsort(-1, descending=True)
    num = min(int(share * side * side), len(source))
    gone, apart = order[:, :num], order[:, num:]
    joined = x[:, target].clone()
    moved = torch.gather(x[:, source], 1, gone[..., None].expand(-1, -1, x.shape[-1]))
    joined.scatter_reduce_(1, to.gather(1, gone)[..., None].expand(-1, -1, x.shape[-1]), moved, "mean")
    left = torch.gather(x[:, source], 1, apart[..., None].expand(-1, -1, x.shape[-1]))
    return torch.cat([joined, left], dim=1), target, apart, to.gather(1, gone)


def measure_tokens(
    side: int, channels: int, heads: int, rounds: int, shares: Sequence[float]
) -> dict[str, Any]:
    """CPU seconds of one self-attention with its projections over two rows, whole and with merged tokens."""
    torch.manual_seed(0)
    coarse = torch.randn(2, channels, side // 8, side // 8)
    smooth = functional.interpolate(coarse, size=(side, side), mode="bilinear")
    x = (smooth + 0.3 * torch.randn_like(smooth)).flatten(2).mT.contiguous()
    weights = [torch.randn(channels, channels) / channels**0.5 for _ in range(4)]

    def attention(tokens: Tensor) -> Tensor:
        q, k, v = (
            functional.linear(tokens, w).unflatten(-1, (heads, -1)).transpose(1, 2) for w in weights[:3]
        )
        out = functional.scaled_dot_product_attention(q, k, v)
        return functional.linear(out.transpose(1, 2).flatten(2), weights[3])

    def with_merging(share: float) -> Tensor:
        tokens, target, _, _ = merged_tokens(x, share, side)
        made = attention(tokens)
        back = torch.empty_like(x)  # what unmerging writes, without the choice of rows: its least cost
        back[:, : made.shape[1]] = made
        back[:, made.shape[1] :] = made[:, : len(target)].repeat(1, 4, 1)[:, : x.shape[1] - made.shape[1]]
        return back

    ways = {"whole": lambda: attention(x)} | {
        f"{share:g} merged": lambda share=share: with_merging(share) for share in shares
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):  # the first round warms up
        for name, way in ways.items():
            began = time.process_time()
            with torch.no_grad():
                way()
            taken[name].append(time.process_time() - began)
    return {
        "tokens": side * side, "channels": channels, "heads": heads,
        "seconds": {name: round(median(few[1:]), 4) for name, few in taken.items()},
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print one JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default="pocket")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument(
        "--ways", nargs="+", default=list(WAYS), help="Names of ways; plain must be among them."
    )
    parser.add_argument("--rounds", type=int, default=3, help="Of --tokens alone.")
    parser.add_argument("--tokens", action="store_true")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found: dict[str, Any] = {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "setting": vars(asked),
    }
    if asked.tokens:
        found["pocket's shape"] = measure_tokens(16, 64, 2, asked.rounds, (0.25, 0.5))
        found["SD 1.5's shape"] = measure_tokens(64, 320, 8, asked.rounds, (0.25, 0.5))
    else:
        found["ways"] = measure(asked.base, asked.steps, asked.prompts, asked.ways)
    print(json.dumps(found, indent=2, default=str))


if __name__ == "__main__":
    main()
