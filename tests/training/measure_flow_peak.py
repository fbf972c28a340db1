"""``python -m tests.training.measure_flow_peak BASE DTYPE SIDE``: a step at a transformer's true width, few blocks.

Prints the peak of the process, the predicted one, the seconds of CPU of two steps, and the loss of the first;
batch 1, joint attention at rank 16. A process of its own, because a peak cannot be taken back.
"""

import gc
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from detour.bases import parts
from detour.bases.base import Base, open_base
from detour.bases.denoiser import make_denoiser
from detour.bases.hardware import torch_dtype
from detour.bases.text import Conditioning
from detour.specs import load_run_spec
from detour.specs.resolved import ResolvedRun
from detour.training.assembly import attach_trainable, choose_targets, make_loss, make_state
from detour.training.cache import LatentCache, TextCache, TrainingData
from detour.training.footprint import process_bytes, training_footprint
from detour.training.loop import StepReport, TrainState, fit
from detour.training.resolving import resolve
from tests.training.measure_peak import peak_bytes

FEW: dict[str, dict[str, Any]] = {
    "sd35-medium": {"num_layers": 2, "dual_attention_layers": [0]},
    "flux-dev": {"num_layers": 1, "num_single_layers": 1},
}


def few_blocks(name: str, **changes: Any) -> Base:
    """The base with its own width and few blocks."""
    base = open_base(name)
    network = {**base.network_config, **FEW[name], **changes}
    return replace(base, configs={**base.configs, base.family.network_part: network})


def random_network(base: Base, dtype: torch.dtype) -> torch.nn.Module:
    """Random weights, filled in place so that no fp32 copy ever stands; positions as diffusers makes them."""
    part = base.family.network_part
    network = parts.empty_part(part, base.network_config)
    network = network._apply(lambda tensor: tensor.to(dtype)).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in network.parameters():
            if tensor.ndim > 1:
                tensor.normal_(std=tensor[0].numel() ** -0.5, generator=generator)
            else:
                tensor.fill_(0.0)
        for buffer in network.buffers():
            buffer.normal_(generator=generator)
        for name, tensor in network.named_parameters():
            if ".norm_" in name and tensor.ndim == 1:
                tensor.fill_(1.0)
    return parts.freeze(network)


def resolved(base: Base, dtype: str, side: int) -> ResolvedRun:
    flags = {
        "data.source": "x", "base.name": base.name, "base.device": "cpu", "base.dtype": dtype, "adapter.rank": 16,
        "adapter.targets": "attn", "train.batch": 1, "train.steps": 2, "data.resolution": side,
    }  # fmt: skip
    return resolve(load_run_spec(flags=flags), base, ["a photo"] * 8, name="x", device="cpu").spec


class Losses:
    """Keeps the loss of each step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_step(self, _state: TrainState, report: StepReport) -> None:
        self.losses.append(report.loss)


def train(base: Base, dtype: str, side: int) -> float:
    kind = torch_dtype(dtype)
    spec, network = resolved(base, dtype, side), random_network(base, kind)
    denoiser = make_denoiser(base, network, device="cpu", dtype=kind, autocast=True)
    attached = attach_trainable(denoiser, choose_targets(network, base, spec).layers, spec)
    latent = side // base.latent_factor
    latents = LatentCache(
        torch.randn(1, 1, base.latent_channels, latent, latent),
        torch.zeros(1, 1, base.latent_channels, latent, latent),
    )
    pooled = torch.randn(2, int(base.network_config["pooled_projection_dim"]))
    states = torch.randn(2, base.text_length, base.cross_attention_width)
    text = TextCache(Conditioning(states, pooled), {"a photo": 0})
    data = TrainingData(latents, text, captions=("a photo",), epoch=(0,))
    losses = Losses()
    fit(make_state(attached, spec), make_loss(denoiser, data, spec), [losses], steps=2)
    return losses.losses[0]


def main(name: str, dtype: str, side: int) -> None:
    torch.set_num_threads(1)
    network = open_base(name).network_config
    narrow = {"num_attention_heads": 1}
    if "caption_projection_dim" in network:
        narrow["caption_projection_dim"] = network["attention_head_dim"]
    train(few_blocks(name, **narrow), dtype, 64)  # imports and kernels, as any process has them
    gc.collect()
    before = process_bytes()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak so far
    base = few_blocks(name)
    began = time.process_time()
    loss = train(base, dtype, side)
    seconds = time.process_time() - began
    measured = peak_bytes()
    predicted = before + training_footprint(base, resolved(base, dtype, side)).on_cpu().total
    print(measured, predicted, round(seconds, 1), loss)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
