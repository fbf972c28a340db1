"""``python -m benchmarks``: a training step against PEFT and the official loop, interleaved, medians of ratios."""

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks import loops
from detour.bases.base import open_base
from detour.pocket.world import HOUSE, render, training_example

VARIANTS: dict[str, Callable[[loops.Setting], Callable[[int], None]]] = {
    "official": loops.official,
    "peft": loops.peft,
    "detour": loops.detour,
    "forward": loops.forward_only,
}


def time_interleaved(steps: dict[str, Callable[[int], None]], *, rounds: int) -> dict[str, list[float]]:
    """Seconds of each variant in each round, one after the other within a round so that all see the same load."""
    for step in steps.values():
        step(0)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for index in range(1, rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step(index)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: dict[str, list[float]], above: str, below: str) -> float:
    """Median over the rounds of one variant's seconds by another's in the same round."""
    return median(a / b for a, b in zip(seconds[above], seconds[below], strict=True))


def measure(*, base: str, batch: int, rank: int, targets: str, dtype: str, rounds: int) -> dict[str, object]:
    """All variants on one setting; seconds are medians."""
    opened = open_base(base)
    examples = [training_example(0, index) for index in range(24)]
    setting = loops.Setting(
        base=opened,
        pictures=np.stack(
            [render(example.scene, HOUSE, size_px=opened.native_size_px) for example in examples]
        ),
        captions=[example.caption for example in examples],
        batch=batch,
        rank=rank,
        targets=targets,
        dtype={"fp32": torch.float32, "bf16": torch.bfloat16}[dtype],
    )
    seconds = time_interleaved({name: make(setting) for name, make in VARIANTS.items()}, rounds=rounds)
    return {
        "base": base,
        "batch": batch,
        "rank": rank,
        "targets": targets,
        "dtype": dtype,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "seconds": {name: round(median(values), 4) for name, values in seconds.items()},
        "official / detour": round(ratio(seconds, "official", "detour"), 3),
        "peft / detour": round(ratio(seconds, "peft", "detour"), 3),
        "detour / forward": round(ratio(seconds, "detour", "forward"), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--base", default="pocket")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--targets", default="attn")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keys = ("base", "batch", "rank", "targets", "rounds")
    settings = {key: getattr(given, key) for key in keys}
    results = [measure(**settings, dtype=dtype) for dtype in ("fp32", "bf16")]
    machine = {"torch": torch.__version__, "python": platform.python_version(), "machine": platform.machine()}
    text = json.dumps({"machine": machine, "results": results}, indent=2)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
