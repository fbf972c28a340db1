"""``python -m tests.training.measure_peak BASE DTYPE BATCH TARGETS``: peak bytes of two training steps, and predicted.

A process of its own, because a peak cannot be taken back.
"""

import gc
import sys
from pathlib import Path

import torch

from detour.bases.base import open_base
from detour.bases.denoiser import make_denoiser
from detour.bases.hardware import torch_dtype
from detour.bases.text import Conditioning
from detour.specs import load_run_spec
from detour.specs.resolved import ResolvedRun
from detour.training.assembly import attach_trainable, choose_targets, make_loss, make_state
from detour.training.cache import LatentCache, TextCache, TrainingData
from detour.training.footprint import process_bytes, training_footprint
from detour.training.loop import fit
from detour.training.resolving import resolve
from tests.training.test_true_shape import random_sd15_unet


def peak_bytes() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def resolved(base: str, dtype: str, batch: int, targets: str) -> ResolvedRun:
    flags = {
        "data.source": "x",
        "base.name": base,
        "base.device": "cpu",
        "base.dtype": dtype,
        "adapter.rank": 4,
    }
    flags |= {"adapter.targets": targets, "train.batch": batch, "train.steps": 2}
    spec = load_run_spec(flags=flags)
    return resolve(spec, open_base(base), ["a photo"] * 8, name="x", device="cpu").spec


def train(spec: ResolvedRun) -> None:
    base = open_base(spec.base.name)
    dtype = torch_dtype(str(spec.base.dtype))
    unet = random_sd15_unet() if base.weights is None else base.load_network(dtype)
    size = int(spec.data.resolution)
    denoiser = make_denoiser(base, unet, device="cpu", dtype=dtype, autocast=True)
    attached = attach_trainable(denoiser, choose_targets(unet, base, spec).layers, spec)
    state = make_state(attached, spec)
    num, side = int(spec.train.batch), size // base.latent_factor
    latents = LatentCache(torch.randn(1, num, 4, side, side), torch.zeros(1, num, 4, side, side))
    text = TextCache(Conditioning(torch.randn(2, 77, base.cross_attention_width)), {"a photo": 0})
    data = TrainingData(latents, text, captions=("a photo",) * num, epoch=tuple(range(num)))
    fit(state, make_loss(denoiser, data, spec), [], steps=1 if base.weights is None else 2)


def main(base: str, dtype: str, batch: int, targets: str) -> None:
    torch.set_num_threads(1)
    train(resolved("pocket", dtype, 1, "attn"))  # imports and kernels, as any process has them
    gc.collect()
    before = process_bytes()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak so far
    spec = resolved(base, dtype, batch, targets)
    train(spec)
    measured = peak_bytes()
    predicted = before + training_footprint(open_base(base), spec).on_cpu().total
    print(measured, predicted)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
