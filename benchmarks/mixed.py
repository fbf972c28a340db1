"""``python -m benchmarks.mixed``: eight adapters, a picture each; attached or merged in turn, switched, and mixed.

Every way draws the same eight pictures (or pictures of the plain base, for the ceiling) in one process, interleaved;
CPU seconds are measured, not the clock's. ``--profile`` says where the time of the mixed way goes.
"""

import argparse
import json
import platform
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median
from typing import Any

import numpy as np
import torch

from detour.adapters.adapter import Adapter, LoraLayer
from detour.adapters.attach import attach_adapter
from detour.adapters.delta import merge_into
from detour.adapters.targets import adaptable_layers, select
from detour.bases.base import Base, open_base
from detour.generation import drawing, runner
from detour.generation.engine import AdapterInUse, PictureEngine, PictureRequest
from detour.generation.states import PictureState
from detour.specs.generation import PictureSpec

Pictures = np.ndarray


@dataclass(frozen=True)
class Setting:
    """Base, adapters and pictures that every way draws.

    Attributes:
        base: with weights.
        steps: of each picture.
        num: adapters and pictures.
        rank: of each adapter.
        targets: layers of the UNet that they sit on.
    """

    base: Base
    steps: int
    num: int
    rank: int
    targets: str

    @cached_property
    def engine(self) -> PictureEngine:
        return PictureEngine.load(self.base)

    def network(self) -> Any:
        """A UNet of its own with the base's weights."""
        return self.base.load_network()

    @cached_property
    def adapters(self) -> list[Adapter]:
        """Plain LoRA with random factors, moderate enough that pictures stay pictures."""
        layers = select(adaptable_layers(self.engine.unet), self.targets)
        weights = {f"unet.{one.path}": self.engine.unet.get_parameter(f"{one.path}.weight") for one in layers}
        return [
            Adapter({key: lora(w, self.rank, 7 * i) for key, w in weights.items()}) for i in range(self.num)
        ]

    @cached_property
    def requests(self) -> list[PictureRequest]:
        how = PictureSpec(steps=self.steps)
        return [PictureRequest(prompt="a red house in the desert", seed=i, how=how) for i in range(self.num)]

    @cached_property
    def own(self) -> list[PictureRequest]:
        """Requests that each have an adapter of their own."""
        used = [AdapterInUse(adapter=adapter) for adapter in self.adapters]
        return [replace(request, adapters=(one,)) for request, one in zip(self.requests, used, strict=True)]

    @cached_property
    def switched(self) -> PictureEngine:
        """An engine whose UNet carries all adapters, loaded as diffusers and PEFT do it."""
        from peft import LoraConfig

        unet: Any = self.network()
        for index, adapter in enumerate(self.adapters):
            paths = [key.removeprefix("unet.") for key in adapter.layers]
            config = LoraConfig(r=self.rank, lora_alpha=self.rank, target_modules=paths)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # a second adapter
                unet.add_adapter(config, f"a{index}")
            for key, layer in adapter.layers.items():
                module = unet.get_submodule(key.removeprefix("unet."))
                for factors, name in ((module.lora_A, "down"), (module.lora_B, "up")):
                    factors[f"a{index}"].weight.data.copy_(layer.tensors[name])
        return self.engine.with_unet(unet.eval().requires_grad_(False))

    def texts(self) -> dict[str, Any]:
        """What diffusers' pipeline is told to draw."""
        return {"prompt": [request.prompt for request in self.requests]}

    @cached_property
    def pipeline(self) -> Any:
        import diffusers

        engine = self.engine
        made = diffusers.StableDiffusionPipeline(
            vae=engine.vae,
            text_encoder=getattr(engine.text, "models", {}).get("text_encoder"),
            tokenizer=getattr(engine.text, "tokenizers", {}).get("text_encoder"),
            unet=engine.unet,
            scheduler=diffusers.DPMSolverMultistepScheduler.from_config(self.base.scheduler_config()),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        made.set_progress_bar_config(disable=True)
        return made


def lora(weight: torch.Tensor, rank: int, seed: int) -> LoraLayer:
    generator = torch.Generator().manual_seed(seed + weight.numel())
    down = torch.randn(rank, *weight.shape[1:], generator=generator) / weight[0].numel() ** 0.5
    up = 0.1 * torch.randn(weight.shape[0], rank, *[1] * (weight.ndim - 2), generator=generator)
    return LoraLayer(down=down, up=up, alpha=float(rank))


def ceiling(setting: Setting) -> Pictures:
    """Draw all pictures with the plain base in one batch, which shows what batching alone gives."""
    return setting.engine.draw(setting.requests, batch=setting.num).pictures


def mixed(setting: Setting) -> Pictures:
    """Draw all pictures in one batch, each with its own adapter."""
    return setting.engine.draw(setting.own, batch=setting.num).pictures


def attached_in_turn(setting: Setting) -> Pictures:
    """Attach, draw one picture, detach."""
    drawn = []
    for adapter, request in zip(setting.adapters, setting.requests, strict=True):
        attached = attach_adapter(setting.engine.models, adapter)
        drawn.append(setting.engine.draw([request]).pictures)
        attached.detach()
    return np.concatenate(drawn)


def merged_in_turn(setting: Setting) -> Pictures:
    """Merge, draw one picture, take the merge back."""
    drawn = []
    for adapter, request in zip(setting.adapters, setting.requests, strict=True):
        merge = merge_into(setting.engine.models, adapter)
        drawn.append(setting.engine.draw([request]).pictures)
        merge.undo()
    return np.concatenate(drawn)


def set_adapters(setting: Setting) -> Pictures:
    """All adapters loaded by PEFT; its switch, then one picture."""
    unet: Any = setting.switched.unet
    drawn = []
    for index, request in enumerate(setting.requests):
        unet.set_adapters([f"a{index}"])
        drawn.append(setting.switched.draw([request]).pictures)
    return np.concatenate(drawn)


def single(setting: Setting) -> Pictures:
    """One picture of the plain base."""
    return setting.engine.draw(setting.requests[:1]).pictures


def single_pipeline(setting: Setting) -> Pictures:
    """Draw the picture with diffusers' own pipeline."""
    images = setting.pipeline(
        setting.requests[0].prompt,
        num_inference_steps=setting.steps,
        guidance_scale=setting.base.recommended_guidance,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images
    return (images * 255).round().astype(np.uint8)


WAYS: dict[str, Callable[[Setting], Pictures]] = {
    "ceiling": ceiling,
    "mixed": mixed,
    "attached in turn": attached_in_turn,
    "merged in turn": merged_in_turn,
    "set_adapters": set_adapters,
    "single": single,
    "single, diffusers": single_pipeline,
}
SAME = (("mixed", "attached in turn"), ("mixed", "set_adapters"), ("single", "single, diffusers"))
RATIOS = (
    ("ceiling", "mixed"),
    ("attached in turn", "mixed"),
    ("merged in turn", "mixed"),
    ("set_adapters", "mixed"),
    ("single", "single, diffusers"),
)


def measure(setting: Setting, rounds: int) -> dict[str, Any]:
    """Median CPU seconds of each way, and medians of the ratios within a round.

    Raises:
        AssertionError: two ways that should draw the same pictures do not.
    """
    pictures = {name: way(setting) for name, way in WAYS.items()}
    for first, second in SAME:
        apart = np.abs(pictures[first].astype(int) - pictures[second].astype(int)).max()
        assert apart <= 1, f"{first} and {second} differ by {apart} of 255"
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, way in WAYS.items():
            began = time.process_time()
            way(setting)
            seconds[name].append(time.process_time() - began)
    return {
        "seconds": {name: round(median(each), 3) for name, each in seconds.items()},
        "ratios": {
            f"{a} ÷ {b}": round(median(x / y for x, y in zip(seconds[a], seconds[b], strict=True)), 3)
            for a, b in RATIOS
        },
    }


def profile(setting: Setting, way: Callable[[Setting], Pictures]) -> dict[str, float]:
    """Share of the CPU seconds of a way in each of its phases; the adapters' products are in the network's."""
    spent: defaultdict[str, float] = defaultdict(float)
    places: Sequence[tuple[str, Any, str]] = (
        ("start (text, noise)", drawing.Drawing, "start"),
        ("plan of the adapters", runner, "plan_rows"),
        ("network", type(setting.engine._drawing.runner.denoiser), "predict"),
        ("samplers", PictureState, "advance"),
        ("decode", drawing.Drawing, "finish"),
    )
    with watched(places, spent):
        began = time.process_time()
        way(setting)
        total = time.process_time() - began
    shares = {name: round(seconds / total, 4) for name, seconds in spent.items()}
    return {**shares, "the rest": round(1 - sum(shares.values()), 4), "seconds": round(total, 3)}


@contextmanager
def watched(places: Sequence[tuple[str, Any, str]], spent: defaultdict[str, float]) -> Iterator[None]:
    """Add up the CPU seconds of each named function while the block runs."""
    before = [(owner, attribute, getattr(owner, attribute)) for _, owner, attribute in places]

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent[name] += time.process_time() - began

        return call

    for (name, _, _), (owner, attribute, function) in zip(places, before, strict=True):
        setattr(owner, attribute, timed(name, function))
    try:
        yield
    finally:
        for owner, attribute, function in before:
            setattr(owner, attribute, function)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="pocket")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--num", type=int, default=8)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--targets", default="attn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", action="store_true")
    asked = parser.parse_args(arguments)
    setting = Setting(open_base(asked.base), asked.steps, asked.num, asked.rank, asked.targets)
    found: dict[str, Any] = {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "setting": {k: v for k, v in vars(asked).items() if k not in ("rounds", "profile")},
        **measure(setting, asked.rounds),
    }
    if asked.profile:
        found["where the time goes"] = {
            way.__name__: profile(setting, way) for way in (ceiling, mixed, single)
        }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
