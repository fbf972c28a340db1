"""``python -m benchmarks``: a training step against PEFT and the official loop, interleaved, medians of ratios."""

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import loops
from benchmarks.memory import kept_mib
from benchmarks.shapes import SHAPES

VARIANTS: dict[str, Callable[[loops.Setting, loops.Caches], loops.Step]] = {
    "official": loops.official,
    "peft": loops.peft,
    "detour": loops.detour,
    "full": loops.full,
    "forward": loops.forward,
    "around the UNet": loops.around_the_unet,
}
RATIOS = (
    ("official", "detour"),
    ("peft", "detour"),
    ("detour", "forward"),
    ("peft", "forward"),
    ("full", "detour"),
    ("around the UNet", "detour"),
    ("separate AdamW", "flat AdamW"),
    ("flat AdamW", "detour"),
)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Seconds = dict[str, list[float]]


def time_interleaved(steps: dict[str, loops.Step], *, rounds: int) -> Seconds:
    """CPU seconds of each variant in each round, one after the other within a round so that all see the same load.

    CPU time and not the clock's: other work on the machine would count as ours.
    """
    for step in steps.values():
        step(0)
    seconds: Seconds = {name: [] for name in steps}
    for index in range(1, rounds + 1):
        for name, step in steps.items():
            start = time.process_time()
            own = step(index)
            seconds[name].append(time.process_time() - start if own is None else own)
    return seconds


def ratio(above: list[float], below: list[float]) -> float:
    """Median over the rounds of one variant's seconds by another's in the same round."""
    return round(median(a / b for a, b in zip(above, below, strict=True)), 4)


def optimizers(setting: loops.Setting) -> dict[str, loops.Step]:
    """Time clipping and AdamW on the adapter's factors, with separate tensors and with one flat buffer."""
    separate = [nn_copy(p) for p in loops.with_detour(setting)[1].parameters()]
    adamw = torch.optim.AdamW(separate, lr=loops.LEARNING_RATE)
    state = loops.make_state([nn_copy(p) for p in separate])

    def over_separate(_: int) -> float:
        for parameter in separate:
            parameter.grad = grads[id(parameter)]
        start = time.process_time()
        torch.nn.utils.clip_grad_norm_(separate, 1.0)
        adamw.step()
        adamw.zero_grad()
        return time.process_time() - start

    def over_flat(_: int) -> float:
        state.flat.grads.copy_(everything)
        start = time.process_time()
        state.flat.clip_grads(1.0)
        state.update()
        return time.process_time() - start

    grads = {id(p): torch.randn_like(p) for p in separate}
    everything = torch.cat([g.flatten() for g in grads.values()])
    return {"separate AdamW": over_separate, "flat AdamW": over_flat}


def nn_copy(parameter: torch.nn.Parameter) -> torch.nn.Parameter:
    return torch.nn.Parameter(parameter.detach().clone())


def measure(
    setting: loops.Setting, caches: loops.Caches, *, names: list[str], rounds: int
) -> tuple[Seconds, dict[str, Any]]:
    """Measure all variants on one setting: (seconds by round, figures)."""
    steps = {name: VARIANTS[name](setting, caches) for name in names}
    seconds = time_interleaved(steps | optimizers(setting), rounds=rounds)
    dtype = next(name for name, dtype in DTYPES.items() if dtype == setting.dtype)
    figures: dict[str, Any] = {
        "shape": setting.shape.name,
        "batch": setting.batch,
        "rank": setting.rank,
        "targets": setting.targets,
        "dtype": dtype,
        "rounds": rounds,
        "seconds": {name: float(f"{median(values):.4g}") for name, values in seconds.items()},
        "ratios": {
            f"{above} / {below}": ratio(seconds[above], seconds[below])
            for above, below in RATIOS
            if above in seconds and below in seconds
        },
    }
    return seconds, figures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="pocket")
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--targets", default="attn")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--no-bytes", action="store_true", help="leave out what is kept for the way back")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    shape = SHAPES[given.shape]()
    caches = loops.make_caches(shape)
    seconds: dict[str, Seconds] = {}
    results: list[dict[str, Any]] = []
    for dtype in given.dtypes:
        setting = loops.Setting(shape=shape, rank=given.rank, targets=given.targets, dtype=DTYPES[dtype])
        seconds[dtype], figures = measure(setting, caches, names=given.variants, rounds=given.rounds)
        if not given.no_bytes:
            figures["MiB kept a sample"] = kept_mib(setting, caches)
        results.append(figures)
        print(json.dumps(figures, indent=2), flush=True)
    text = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": given.threads,
        "results": results,
    }
    if {"fp32", "bf16"} <= seconds.keys() and {"official", "detour"} <= seconds["fp32"].keys():
        across = median(seconds["fp32"]["official"]) / median(seconds["bf16"]["detour"])
        text["official fp32 / detour bf16"] = round(across, 3)
        print(f"official fp32 / detour bf16: {across:.3f} (of medians)")
    if given.out:
        given.out.write_text(json.dumps(text, indent=2) + "\n")


if __name__ == "__main__":
    main()
