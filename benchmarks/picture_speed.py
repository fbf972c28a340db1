"""``python -m benchmarks.picture_speed``: one adapter, one and several pictures; beside the layers, merged, diffusers.

Every way draws the same pictures in one process, in turns; CPU seconds are measured, not the clock's. Before anything
is timed, adapter, merged adapter and diffusers' pipeline are held to the same pictures. The ceiling is the plain base.
``--shape sd15`` draws with random weights of the true shape of SD 1.5, of which there is one copy in memory: it leaves
the merged adapter out, whose network has as many weights again, and the text encoder, whose states are random.
``--profile`` says where the time of a picture goes.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.mixed import Setting, profile
from benchmarks.shapes import SHAPES, Shape
from detour.bases.base import open_base
from detour.bases.text import Conditioning
from detour.generation.engine import PictureEngine, PictureRequest
from detour.training.cache import TextCache
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


@dataclass(frozen=True, kw_only=True)
class RandomSetting(Setting):
    """A setting whose weights are random, of a shape that ``benchmarks.shapes`` names.

    Attributes:
        shape: makes the networks; all of them read the same memory.
        size_px: side of the pictures.
    """

    shape: Shape
    size_px: int

    @cached_property
    def engine(self) -> PictureEngine:
        unet = self.network()
        width = unet.config.cross_attention_dim
        states = torch.randn(2, 77, width, generator=torch.Generator().manual_seed(0))
        text = TextCache(Conditioning(states), {"a red house in the desert": 0})
        return PictureEngine(self.base, unet=unet, vae=self.shape.vae(torch.float32), text=text)

    def network(self) -> Any:
        """A UNet of its own that reads the same weights as the others."""
        return self.shape.unet(torch.float32)

    @cached_property
    def requests(self) -> list[PictureRequest]:
        size = {"width_px": self.size_px, "height_px": self.size_px}
        return [
            replace(one, how=one.how.model_copy(update=size))
            for one in Setting.requests.func(self)  # type: ignore[attr-defined]
        ]

    def texts(self) -> dict[str, Any]:
        """What diffusers' pipeline is told: states of the texts, and the size."""
        text, num = self.engine.text, len(self.requests)
        return {
            "prompt_embeds": text.encode([one.prompt for one in self.requests]).states,
            "negative_prompt_embeds": text.unconditional(num).states,
            "width": self.size_px,
            "height": self.size_px,
        }


def ways_of(setting: Setting, merged: PictureEngine | None) -> dict[str, Way]:
    """What is compared, each drawing all pictures of the setting.

    Args:
        setting: whose first adapter every picture has.
        merged: an engine of its own with that adapter in its weights; ``None`` leaves it out.
    """
    own = [replace(request, adapters=setting.own[0].adapters) for request in setting.requests]

    def pipeline(unet: Any) -> Pictures:
        setting.pipeline.unet = unet
        images = setting.pipeline(
            **setting.texts(),
            num_inference_steps=setting.steps,
            guidance_scale=setting.base.recommended_guidance,
            generator=[torch.Generator().manual_seed(request.seed) for request in setting.requests],
            output_type="np",
        ).images
        return (images * 255).round().astype(np.uint8)

    def draw(engine: PictureEngine, requests: Any) -> Pictures:
        return engine.draw(requests, batch=setting.num).pictures

    ways: dict[str, Way] = {
        "plain": lambda: draw(setting.engine, setting.requests),
        "adapter": lambda: draw(setting.engine, own),
        "diffusers": lambda: pipeline(setting.engine.unet),
        "diffusers, adapter": lambda: pipeline(setting.switched.unet),
    }
    if merged is not None:
        ways["merged"] = lambda: draw(merged, setting.requests)
    return ways


def measure(setting: Setting, rounds: int) -> dict[str, Any]:
    """Median CPU seconds of each way, and medians of the ratios within a round.

    Raises:
        AssertionError: two ways that should draw the same pictures do not.
    """
    merged = None
    if not isinstance(setting, RandomSetting):
        merged = PictureEngine.load(setting.base)
        merge_adapters_of(merged, [replace(setting.requests[0], adapters=setting.own[0].adapters)])
    setting.switched.unet.set_adapters(["a0"])  # type: ignore[operator]
    ways = ways_of(setting, merged)
    pictures = {name: way() for name, way in ways.items()}
    apart = {
        f"{a}, {b}": int(np.abs(pictures[a].astype(int) - pictures[b].astype(int)).max())
        for a, b in SAME
        if {a, b} <= set(pictures)
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
            if {a, b} <= set(seconds)
        },
        "largest differences of 255": apart,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure at each number of pictures, and print one JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default="pocket")
    parser.add_argument(
        "--shape", choices=[name for name in SHAPES if name != "pocket"], help="random weights"
    )
    parser.add_argument("--size", type=int, default=256, help="side of the pictures of a shape, in pixels")
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
        parts = (asked.steps, num, asked.rank, asked.targets)
        if asked.shape is None:
            setting = Setting(open_base(asked.base), *parts)
        else:
            base = open_base("sd15", weights=False)
            setting = RandomSetting(base, *parts, shape=SHAPES[asked.shape](), size_px=asked.size)
        found[f"{num} at a time"] = measure(setting, asked.rounds)
        if asked.profile:
            found[f"where the time of {num} goes"] = profile(
                setting, lambda one: one.engine.draw(one.requests, batch=one.num).pictures
            )
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
