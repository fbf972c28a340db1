"""Races candidates for pocket-flow's parts: which learns most in equal CPU seconds of one thread.

``python -m benchmarks.flow_race vae --cpu-s 60`` trains each VAE from the pictures of a pre-training's work folder and
prints its PSNR on renders of held-out combinations; ``python -m benchmarks.flow_race transformer --cpu-s 60`` trains
each MMDiT on the work folder's cached latents and prints the velocity's error on pictures that it was not trained on.
Rates are flat: no candidate is helped by a decay.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

import detour.pocket
from detour.pocket.pretrain import autoencoder
from detour.pocket.pretrain.flow import parts
from detour.pocket.pretrain.flow.conditioning import WeightedJointAttention
from detour.pocket.pretrain.flow.run import FlowPretraining
from detour.pocket.pretrain.flow.velocity import velocity_loss
from detour.pocket.pretrain.measuring import reconstruction, true_renders
from detour.pocket.pretrain.optimizers import adamw, optimizers_for, set_rate
from detour.pocket.pretrain.run import VAE_PLAIN, Settings, draw
from detour.pocket.world import HOUSE, held_out_prompts

POCKET = Path(detour.pocket.__file__).parent / "weights"
WARMUP = 20
NUM_KEPT_OUT = 256
# Layers whose matrices are no hidden ones: AdamW takes them beside Muon.
TRANSFORMER_PLAIN = ("pos_embed", "proj_out", "context_embedder", "time_text_embed", "norm")
Loss = Callable[[torch.Generator], tuple[Tensor, Mapping[str, float]]]


@dataclass(frozen=True, kw_only=True)
class Vae:
    """A candidate VAE."""

    channels: int
    widths: tuple[int, ...]
    warm: bool = False


@dataclass(frozen=True, kw_only=True)
class Mmdit:
    """A candidate transformer and how it is trained."""

    config: Mapping[str, Any] = field(default_factory=dict)
    optimizer: str = "muon"
    rate: float = 2e-3
    batch: int = 32


def shape(width: int, heads: int, layers: int) -> dict[str, Any]:
    """The config's entries of a transformer's width and depth."""
    return {
        "num_layers": layers,
        "num_attention_heads": heads,
        "attention_head_dim": width // heads,
        "caption_projection_dim": width,
    }


VAES = {
    "16 channels, from pocket's": Vae(channels=16, widths=(16, 32, 64, 128), warm=True),
    "8 channels, from pocket's": Vae(channels=8, widths=(16, 32, 64, 128), warm=True),
    "16 channels, fresh": Vae(channels=16, widths=(16, 32, 64, 128)),
    "16 channels, wider, fresh": Vae(channels=16, widths=(16, 48, 96, 128)),
}
MMDITS = {
    "192 x 4, muon 2e-3": Mmdit(config=shape(192, 3, 4)),
    "192 x 4, muon 4e-3": Mmdit(config=shape(192, 3, 4), rate=4e-3),
    "192 x 4, adamw 2e-3": Mmdit(config=shape(192, 3, 4), optimizer="adamw", rate=2e-3),
    "128 x 4, adamw 2e-3": Mmdit(config=shape(128, 2, 4), optimizer="adamw", rate=2e-3),
    "192 x 6, adamw 2e-3": Mmdit(config=shape(192, 3, 6), optimizer="adamw", rate=2e-3),
    "192 x 4, adamw 1e-3": Mmdit(config=shape(192, 3, 4), optimizer="adamw", rate=1e-3),
    "256 x 5, adamw 1e-3": Mmdit(config=shape(256, 4, 5), optimizer="adamw", rate=1e-3),
}


def train(
    modules: nn.Module, optimizers: list[torch.optim.Optimizer], loss_function: Loss, *, cpu_s: float
) -> int:
    """Trains for that many CPU seconds and returns the number of steps."""
    modules.train()
    started, step = time.process_time(), 0
    while time.process_time() - started < cpu_s:
        set_rate(optimizers, min(1.0, (step + 1) / WARMUP))
        loss, _ = loss_function(torch.Generator().manual_seed(step))
        loss.backward()
        nn.utils.clip_grad_norm_([p for p in modules.parameters() if p.grad is not None], 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step += 1
    return step


def race_vae(candidate: Vae, pretraining: FlowPretraining, *, cpu_s: float) -> dict[str, float]:
    """PSNR on 64 renders of held-out combinations after ``cpu_s`` CPU seconds."""
    torch.manual_seed(1)
    parts.VAE_CONFIG |= {
        "latent_channels": candidate.channels,
        "block_out_channels": list(candidate.widths),
    }
    vae: AutoencoderKL = parts.autoencoder_from_pocket(POCKET) if candidate.warm else parts.new_autoencoder()
    pictures = pretraining.pictures()

    def loss(generator: torch.Generator) -> tuple[Tensor, Mapping[str, float]]:
        crops = autoencoder.draw_pictures(pictures, count=16, crop_px=64, generator=generator)
        return autoencoder.autoencoder_loss(vae, crops, generator)

    optimizers = optimizers_for(vae, lr=2e-3, adam_lr=1e-3, plain=VAE_PLAIN)
    steps = train(vae, optimizers, loss, cpu_s=cpu_s)
    shown = true_renders(held_out_prompts(64, seed=1), [HOUSE])
    size = sum(p.numel() for p in vae.parameters())
    return {"parameters": size, "steps": steps, **reconstruction(vae.eval(), shown)}


def race_transformer(candidate: Mmdit, pretraining: FlowPretraining, *, cpu_s: float) -> dict[str, float]:
    """Error of the velocity on ``NUM_KEPT_OUT`` pictures that were kept out, after ``cpu_s`` CPU seconds."""
    torch.manual_seed(1)
    parts.TRANSFORMER_CONFIG |= dict(candidate.config)
    transformer = parts.new_transformer()
    transformer.set_attn_processor(WeightedJointAttention())
    texts, towers, vae = pretraining.texts(), pretraining.towers(), pretraining.trained_vae()
    cached = np.load(pretraining.work / "latents.npy", mmap_mode="r")
    ready = json.loads((pretraining.work / "latents.json").read_text())["done"]

    def error(which: np.ndarray, phrasing: int, generator: torch.Generator) -> tuple[Tensor, Any]:
        means = torch.from_numpy(cached[which, 0]).float().chunk(2, dim=1)[0]
        latents = (means - vae.config.shift_factor) * vae.config.scaling_factor
        return velocity_loss(transformer, latents, towers.encode(texts.true[which, phrasing]), generator)

    def loss(generator: torch.Generator) -> tuple[Tensor, Mapping[str, float]]:
        which, phrasing = draw(ready - NUM_KEPT_OUT, candidate.batch, generator)
        return error(which, phrasing, generator)

    optimizers: list[torch.optim.Optimizer]
    if candidate.optimizer == "adamw":
        optimizers = [adamw(transformer.parameters(), lr=candidate.rate)]
    else:
        rate = candidate.rate
        optimizers = optimizers_for(transformer, lr=rate, adam_lr=rate / 2, plain=TRANSFORMER_PLAIN)
    steps = train(transformer, optimizers, loss, cpu_s=cpu_s)
    with torch.no_grad():
        value, thirds = error(np.arange(ready - NUM_KEPT_OUT, ready), 0, torch.Generator().manual_seed(9))
    size = sum(p.numel() for p in transformer.parameters())
    return {"parameters": size, "steps": steps, "error": float(value), **thirds}


def main() -> None:
    """Reads the command line, races, and prints one line of JSON for each candidate."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flow_race", description=__doc__)
    parser.add_argument("part", choices=("vae", "transformer"))
    parser.add_argument(
        "--work", type=Path, default=Path("build/pocket-flow"), help="of a pre-training with its pictures"
    )
    parser.add_argument("--cpu-s", type=float, default=60.0, help="CPU seconds of each candidate")
    parser.add_argument("--pictures", type=int, default=4096)
    parser.add_argument("--only", action="append", default=None, help="candidates whose name has this in it")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = Settings(pictures=arguments.pictures)
    pretraining = FlowPretraining(
        work=arguments.work, out=arguments.work / "base", settings=settings, pocket=POCKET
    )
    races: dict[str, Callable[..., dict[str, float]]]
    races = (
        {name: partial(race_vae, candidate) for name, candidate in VAES.items()}
        if arguments.part == "vae"
        else {name: partial(race_transformer, candidate) for name, candidate in MMDITS.items()}
    )
    for name, race in races.items():
        if arguments.only is None or any(word in name for word in arguments.only):
            print(json.dumps({name: race(pretraining, cpu_s=arguments.cpu_s)}), flush=True)


if __name__ == "__main__":
    main()
