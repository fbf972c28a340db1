"""``python -m benchmarks.picture_speed``: one adapter, one and several pictures; beside the layers, merged, diffusers.

Every way draws the same pictures in one process, in turns; CPU seconds are measured, not the clock's. Before anything
is timed, adapter, merged adapter and diffusers' pipeline are held to the same pictures. The ceiling is the plain base.
``--profile`` says where the time of a picture goes.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.mixed import Setting, profile
from detour.bases.base import open_base
from detour.generation.engine import PictureEngine
from detour.verbs.draw.merged import merge_adapters_of

Pictures = np.ndarray
Way = Callable[[], Pictures]

RATIOS = (
    ("diffusers", "plain"),
    ("diffusers, adapter", "adapter"),
    ("diffusers, adapter", "merged"),
    ("adapter", "plain"),
    ("merged", "plain"),
)
SAME = (("adapter", "merged"), ("adapter", "diffusers, adapter"), ("plain", "diffusers"))


def ways_of(setting: Setting, merged: PictureEngine) -> dict[str, Way]:
    """What is compared, each drawing all pictures of the setting.

    Args:
        setting: whose first adapter every picture has.
        merged: an engine of its own with that adapter in its weights.
    """
    own = [replace(request, adapters=setting.own[0].adapters) for request in setting.requests]

    def pipeline(unet: Any) -> Pictures:
        setting.pipeline.unet = unet
        images = setting.pipeline(
            [request.prompt for request in setting.requests],
            num_inference_steps=setting.steps,
            guidance_scale=setting.base.recommended_guidance,
            generator=[torch.Generator().manual_seed(request.seed) for request in setting.requests],
            output_type="np",
        ).images
        return (images * 255).round().astype(np.uint8)

    def draw(engine: PictureEngine, requests: Any) -> Pictures:
        return engine.draw(requests, batch=setting.num).pictures

    return {
        "plain": lambda: draw(setting.engine, setting.requests),
        "adapter": lambda: draw(setting.engine, own),
        "merged": lambda: draw(merged, setting.requests),
        "diffusers": lambda: pipeline(setting.engine.unet),
        "diffusers, adapter": lambda: pipeline(setting.switched.unet),
    }


def measure(setting: Setting, rounds: int) -> dict[str, Any]:
    """Median CPU seconds of each way, and medians of the ratios within a round.

    Raises:
        AssertionError: two ways that should draw the same pictures do not.
    """
    merged = PictureEngine.load(setting.base)
    merge_adapters_of(merged, [replace(setting.requests[0], adapters=setting.own[0].adapters)])
    setting.switched.unet.set_adapters(["a0"])  # type: ignore[operator]
    ways = ways_of(setting, merged)
    pictures = {name: way() for name, way in ways.items()}
    apart = {
        f"{a}, {b}": int(np.abs(pictures[a].astype(int) - pictures[b].astype(int)).max()) for a, b in SAME
    }
    assert max(apart.values()) <= 2, f"pictures differ: {apart}"
    assert np.abs(pictures["plain"].astype(int) - pictures["adapter"]).max() > 10, "the adapter does nothing"
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.process_time()
            way()
            seconds[name].append((time.process_time() - began) / setting.num)
    return {
        "seconds a picture": {name: round(median(each), 3) for name, each in seconds.items()},
        "ratios": {
            f"{a} ÷ {b}": round(median(x / y for x, y in zip(seconds[a], seconds[b], strict=True)), 3)
            for a, b in RATIOS
        },
        "largest differences of 255": apart,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure at each number of pictures, and print one JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default="pocket")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--num", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--targets", default="all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", action="store_true")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found: dict[str, Any] = {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "setting": {k: v for k, v in vars(asked).items() if k not in ("rounds", "profile")},
    }
    for num in asked.num:
        setting = Setting(open_base(asked.base), asked.steps, num, asked.rank, asked.targets)
        found[f"{num} at a time"] = measure(setting, asked.rounds)
        if asked.profile:
            found[f"where the time of {num} goes"] = profile(
                setting, lambda one: one.engine.draw(one.requests, batch=one.num).pictures
            )
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
