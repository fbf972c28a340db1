"""Adapters of many kinds for a base of a test, and a pool of requests that use them."""

import random
from dataclasses import replace

import torch
from torch import Tensor, nn

from detour.adapters.adapter import Adapter, LoraLayer
from detour.adapters.layers import DoraLayer, Layer, output_norms
from detour.generation.engine import AdapterInUse, PictureEngine, PictureRequest
from detour.specs.generation import PictureSpec
from tests.adapters.kinds import loha, lokr

STRENGTHS = (1.0, 0.7, 0.4, -0.5)
WORD = "zorb"


def numbers(seed: int, *shape: int) -> Tensor:
    return 0.2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def lora(weight: Tensor, rank: int, seed: int) -> LoraLayer:
    up = (weight.shape[0], rank, *[1] * (weight.ndim - 2))
    return LoraLayer(down=numbers(seed, rank, *weight.shape[1:]), up=numbers(seed + 1, *up), alpha=rank / 2)


def dora(weight: Tensor, rank: int, seed: int) -> DoraLayer:
    stretch = 1 + numbers(seed + 2, weight.shape[0])
    return DoraLayer(change=lora(weight, rank, seed), magnitude=output_norms(weight.float()) * stretch)


def small(layer: Layer) -> Layer:
    """The same algorithm at a scale that leaves pictures finite and different."""
    return replace(layer, alpha=0.1)  # type: ignore[type-var]


def chosen(model: nn.Module, part: str, *names: str) -> dict[str, Tensor]:
    """Weights of the Linear and Conv2d layers whose path has one of the names, by layer key."""
    return {
        f"{part}.{path}": module.weight
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and any(name in path for name in names)
    }


def make_adapters(engine: PictureEngine) -> dict[str, Adapter]:
    """Eight adapters: ranks 2 to 40, LoRA on Linear and convolutions, DoRA, LoHa, LoKr, text layers, a new word."""
    unet, text = engine.unet, engine.text.models["text_encoder"]
    attention = chosen(unet, "unet", "attn1", "attn2")
    convolutions = chosen(unet, "unet", "conv1", "conv2", "proj_in", "downsamplers")
    everything = chosen(unet, "unet", "attn", "ff.net", "conv", "proj", "time_emb", "linear")
    reads = chosen(text, "text_encoder", "q_proj", "v_proj", "fc1")
    width = text.get_input_embeddings().weight.shape[1]
    return {
        "rank2": Adapter({key: lora(w, 2, 10) for key, w in attention.items()}),
        "rank5 conv": Adapter({key: lora(w, 5, 20) for key, w in (attention | convolutions).items()}),
        "rank16 all": Adapter({key: lora(w, 16, 30) for key, w in everything.items()}),
        "dora": Adapter({key: dora(w, 4, 40) for key, w in (attention | convolutions).items()}),
        "loha": Adapter({key: small(loha(tuple(w.shape))) for key, w in (attention | convolutions).items()}),
        "lokr": Adapter({key: small(lokr(tuple(w.shape))) for key, w in attention.items()}),
        "text and word": Adapter(
            {key: lora(w, 4, 50) for key, w in (attention | reads).items()},
            words={WORD: {"text_encoder": numbers(55, 2, width)}},
        ),
        "rank40 text": Adapter({key: lora(w, 40, 60) for key, w in (attention | reads).items()}),
    }


def make_pool(adapters: dict[str, Adapter], *, num: int = 24, steps: int = 4) -> list[PictureRequest]:
    """Requests that differ in prompt, seed, guidance, sampler and adapters, with their width class open."""
    draw = random.Random(5)
    used = {name: [AdapterInUse(adapter=one, weight=s) for s in STRENGTHS] for name, one in adapters.items()}
    pool = []
    for index in range(num):
        names = [list(adapters)[index % len(adapters)]]
        if index % 5 == 4:
            names.append(draw.choice([name for name in adapters if name not in names]))
        if index % 8 == 7 and index > 8:
            names = []
        how = PictureSpec(
            steps=steps,
            guidance_scale=1.0 if index % 4 == 3 else 4.0 + index % 3,
            scheduler=("dpm++", "euler", "ddim", "ddpm", "pndm")[index % 5],
            negative_prompt="blurry" if index % 3 == 0 else "",
            deep_every=2 if index % 6 == 4 else 1,
            guidance_interval={1: (0.0, 0.5), 2: (0.5, 1.0)}.get(index % 6, (0.0, 1.0))
            if steps > 1
            else (0.0, 1.0),
        )
        pool.append(
            PictureRequest(
                prompt=f"a {WORD} house {index % 7}" if index % 2 else f"cat {index}",
                seed=100 + index,
                how=how,
                adapters=tuple(draw.choice(used[name]) for name in names),
                step_weights=((0.0, 1.0), (0.5, 0.3)) if index % 6 == 5 else (),
            )
        )
    return pool
