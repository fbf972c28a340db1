"""``python -m benchmarks.methods``: every method once on the embedded base: what it learns, and what a step costs.

``train`` trains each method on 24 pictures of stained glass, at the rate that a run takes by itself, and proves it;
what is done already is left alone. ``time`` makes steps of all methods in turns, and of PEFT's own modules where it has
the method. ``table`` prints both as the table in docs/training.md.
"""

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.__main__ import ratio, time_interleaved
from benchmarks.loops import Step
from detour.bases.base import Base, open_base
from detour.bases.denoiser import Denoiser
from detour.files import write_json
from detour.pocket.world import HOUSE, render, training_example
from detour.specs import RunSpec, load_run_spec
from detour.specs.resolved import ResolvedRun
from detour.training.assembly import attach_trainable, choose_targets, load_denoiser, make_loss, make_state
from detour.training.cache import TrainingData, cache_latents, cache_text
from detour.training.flat import FlatParameters, ParameterGroup
from detour.training.library_optim import new_optimizer
from detour.training.loop import TrainState, accumulate
from detour.training.resolving import resolve
from detour.verbs.judge.held_out_material import write_world_style
from detour.verbs.train.demo import draw_training_pictures

METHODS: dict[str, dict[str, Any]] = {
    "lora": {},
    "lora-gaussian": {"adapter.init": "gaussian"},
    "rslora": {"adapter.rslora": True},
    "lora+": {"train.optim.up_rate": 16.0},
    "dora": {"adapter.method": "dora"},
    "loha": {"adapter.method": "loha"},
    "lokr": {"adapter.method": "lokr"},
    "lora-linear": {"adapter.targets": "linear"},
    "pissa": {"adapter.init": "pissa"},
    "olora": {"adapter.init": "olora"},
    "full": {"adapter.method": "full"},
}

RANK = 4
STYLE = "stained glass"


def spec_of(method: str, data: Path, *, steps: int) -> RunSpec:
    """A run of one method on the demo's pictures."""
    flags: dict[str, Any] = {
        "name": method,
        "data.source": str(data),
        "base.name": "pocket",
        "base.dtype": "fp32",
        "adapter.rank": RANK,
        "train.steps": steps,
        "train.threads": torch.get_num_threads(),
        "train.loss.caption_dropout": 0.0,
        "sample.every": 0,
        "validate.every": steps,
        "checkpoint.every": 0,
        "evaluate.num_prompts": 8,
        "evaluate.proof_pictures": 2,
        **METHODS[method],
    }
    return load_run_spec(flags=flags)


def train(out: Path, methods: list[str], *, steps: int) -> None:
    """Train and prove each method that has no proof yet."""
    from detour.verbs.train.run import train_adapter

    data = out / "data"
    if not (data / "023.txt").exists():
        draw_training_pictures(data, style_name=STYLE, count=24, seed=0)
    for method in methods:
        folder = out / method
        if (folder / "proof.json").exists():
            continue
        write_world_style(folder, STYLE)
        result = train_adapter(spec_of(method, data, steps=steps), runs=out, force=True)
        assert result.proof is not None
        print(method, result.proof.held_out.style_distance, result.proof.verdict, flush=True)


def time_steps(out: Path, methods: list[str], *, rounds: int) -> None:
    """Steps of all methods in turns; seconds and ratios to plain LoRA into ``times.json``."""
    base = open_base("pocket")
    scenes = [training_example(0, index) for index in range(8)]
    captions = tuple(scene.caption for scene in scenes)
    pictures = [render(scene.scene, HOUSE, size_px=base.native_size_px) for scene in scenes]
    latents = cache_latents(base.load_vae(torch.float32, "cpu"), pictures, flip=False)
    text = cache_text(base.load_text(torch.float32, "cpu"), [*captions, ""])
    data = TrainingData(latents, text, captions=captions, epoch=tuple(range(len(captions))))
    made: dict[str, Step] = {}
    for method in dict.fromkeys(["lora", *methods]):
        spec = resolve(spec_of(method, out, steps=100), base, captions, name=method, device="cpu").spec
        made[method] = stepping(base, data, spec)
        if spec.adapter.method in ("dora", "loha", "lokr"):
            made[f"{method} in PEFT"] = stepping(base, data, spec, in_peft=True)
    seconds = time_interleaved(made, rounds=rounds)
    figures = {
        name: {"seconds": median(values), "of_lora": ratio(values, seconds["lora"])}
        for name, values in seconds.items()
    }
    write_json(out / "times.json", figures)
    print(json.dumps(figures, indent=2), flush=True)


def stepping(base: Base, data: TrainingData, spec: ResolvedRun, *, in_peft: bool = False) -> Step:
    """A function that makes one step of a resolved run."""
    denoiser = load_denoiser(base, spec)
    layers = choose_targets(denoiser.network, base, spec).layers
    if in_peft:
        state = _peft_state(denoiser, [layer.path for layer in layers], spec)
    else:
        state = make_state(attach_trainable(denoiser, layers, spec), spec)
    loss_fn = make_loss(denoiser, data, spec)

    def step(index: int) -> None:
        accumulate(loss_fn, index, 1)
        state.flat.clip_grads(1.0)
        state.update()

    return step


def _peft_state(denoiser: Denoiser, paths: list[str], spec: ResolvedRun) -> TrainState:
    from peft import LoHaConfig, LoKrConfig, LoraConfig, inject_adapter_in_model

    rank, method = int(spec.adapter.rank), spec.adapter.method
    if method == "dora":
        config: Any = LoraConfig(r=rank, lora_alpha=rank, use_dora=True, target_modules=paths)
    else:
        config = {"loha": LoHaConfig, "lokr": LoKrConfig}[method](r=rank, alpha=rank, target_modules=paths)
    inject_adapter_in_model(config, denoiser.network)
    trained = tuple(parameter for parameter in denoiser.network.parameters() if parameter.requires_grad)
    flat = FlatParameters([ParameterGroup("unet", trained)])
    return TrainState(flat=flat, optimizer=new_optimizer(flat, spec.train.optim), rate=lambda _: 1e-4)


def table(out: Path) -> None:
    """Print the table."""
    times = json.loads((out / "times.json").read_text()) if (out / "times.json").exists() else {}
    print("| method | rate | trained numbers | style distance | verdict | step ÷ LoRA | PEFT's own ÷ LoRA |")
    print("|---|---|---|---|---|---|---|")
    for method in METHODS:
        proof_file = out / method / "proof.json"
        if not proof_file.exists():
            continue
        proof = json.loads(proof_file.read_text())
        spec = load_run_spec(config=out / method / "resolved.toml")
        distance = proof["held_out"]["style_distance"]
        own, theirs = times.get(method, {}), times.get(f"{method} in PEFT", {})
        cells = (
            method,
            f"{float(spec.train.optim.lr):g}",
            f"{_numbers(spec):,}",
            f"{distance['base']:.3f} → {distance['adapter']:.3f}",
            f"`{proof['verdict']}`",
            f"{own['of_lora']:.2f}" if own else "",
            f"{theirs['of_lora']:.2f}" if theirs else "",
        )
        print("| " + " | ".join(cells) + " |")


def _numbers(given: RunSpec) -> int:
    base = open_base("pocket")
    spec = resolve(
        given, base, [], name="counted", device="cpu"
    ).spec  # changes nothing in a finished run's settings
    denoiser = load_denoiser(base, spec)
    attached = attach_trainable(denoiser, choose_targets(denoiser.network, base, spec).layers, spec)
    return int(np.sum([parameter.numel() for parameter in attached.parameters()]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["train", "time", "table"])
    parser.add_argument("--out", type=Path, default=Path("runs/methods"))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    methods = arguments.methods.split(",")
    if arguments.what == "train":
        train(arguments.out, methods, steps=arguments.steps)
    elif arguments.what == "time":
        time_steps(arguments.out, methods, rounds=arguments.rounds)
    else:
        table(arguments.out)


if __name__ == "__main__":
    main()
