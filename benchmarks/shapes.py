"""What is trained in a benchmark: ``pocket``, and random weights at half and at the true shape of SD 1.5."""

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import detour
from detour.bases.base import open_base
from detour.bases.latents import to_pixels
from detour.diffusion.schedule import alphas_cumprod
from detour.pocket.world import HOUSE, render, training_example

NUM_PICTURES = 24
Texts = Callable[[Sequence[int]], Tensor]
"""Places of captions → text states (N, 77, D)."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A base in parts, with pictures and captions for it.

    Attributes:
        unet, vae: makers of a frozen part in a dtype.
        text: maker of what encodes the captions at given places, tokenizer included where there is one.
        pixels: (N, 3, H, W) float32 in -1 … 1.
        alphas: of the noise schedule.
        batch: that suits it.
    """

    name: str
    unet: Callable[[torch.dtype], Any]
    vae: Callable[[torch.dtype], Any]
    text: Callable[[torch.dtype], Texts]
    pixels: Tensor
    alphas: Tensor
    batch: int


def pocket() -> Shape:
    """The embedded base on pictures of its own world, batch 8; heads of 32 to 112."""
    base = open_base("pocket")
    examples = [training_example(0, index) for index in range(NUM_PICTURES)]
    captions = [example.caption for example in examples]
    pictures = [render(example.scene, HOUSE, size_px=base.native_size_px) for example in examples]

    def text(dtype: torch.dtype) -> Texts:
        stage = base.load_text(dtype=dtype, device="cpu")
        return lambda places: stage.encode([captions[place] for place in places]).states

    return Shape(
        name="pocket",
        unet=lambda dtype: base.load_network(dtype=dtype, device="cpu"),
        vae=lambda dtype: base.load_vae(dtype=dtype, device="cpu"),
        text=text,
        pixels=torch.cat([to_pixels(picture[None]) for picture in pictures]),
        alphas=alphas_cumprod(base.scheduler_config()),
        batch=8,
    )


def half() -> Shape:
    """SD 1.5 with half of every width, heads of 32, 256 px, batch 2; random weights."""
    unet = _config("unet") | {
        "block_out_channels": [160, 320, 640, 640],
        "attention_head_dim": [5, 10, 20, 20],  # diffusers means the number of heads
        "cross_attention_dim": 384,
        "sample_size": 32,
    }
    vae = _config("vae") | {"block_out_channels": [64, 128, 256, 256]}
    text = _config("text_encoder") | {
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_attention_heads": 6,
        "projection_dim": 384,
    }
    return _random("half", unet, vae, text, size_px=256, batch=2)


def sd15() -> Shape:
    """The true shape of SD 1.5, 512 px, batch 1; random weights."""
    return _random("sd15", _config("unet"), _config("vae"), _config("text_encoder"), size_px=512, batch=1)


SHAPES: dict[str, Callable[[], Shape]] = {"pocket": pocket, "half": half, "sd15": sd15}


def _config(part: str) -> dict[str, Any]:
    folder = Path(detour.__file__).parent / "bases" / "configs" / "sd15" / part
    loaded: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return {key: value for key, value in loaded.items() if not key.startswith("_") and key != "architectures"}


def _random(
    name: str, unet: dict[str, Any], vae: dict[str, Any], text: dict[str, Any], *, size_px: int, batch: int
) -> Shape:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    num = 4
    ids = torch.randint(0, int(text["vocab_size"]), (num, 77), generator=torch.Generator().manual_seed(0))

    def make_text(dtype: torch.dtype) -> Texts:
        model = _frozen(lambda: CLIPTextModel(CLIPTextConfig(**text)), dtype)

        @torch.no_grad()
        def states(places: Sequence[int]) -> Tensor:
            return model(ids[list(places)])[0]

        return states

    @functools.cache
    def weights(dtype: torch.dtype) -> dict[str, Tensor]:
        return dict(_frozen(lambda: UNet2DConditionModel(**unet), dtype).state_dict())

    def make_unet(dtype: torch.dtype) -> Any:
        with torch.device("meta"):
            model = UNet2DConditionModel(**unet)
        model.load_state_dict(weights(dtype), assign=True)  # every variant reads the same memory
        return model.eval().requires_grad_(False)

    return Shape(
        name=name,
        unet=make_unet,
        vae=lambda dtype: _frozen(lambda: AutoencoderKL(**vae), dtype),
        text=make_text,
        pixels=torch.rand(num, 3, size_px, size_px, generator=torch.Generator().manual_seed(0)) * 2 - 1,
        alphas=alphas_cumprod(open_base("sd15").scheduler_config()),
        batch=batch,
    )


def _frozen(make: Callable[[], nn.Module], dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    model = make()
    return model._apply(lambda t: t.to(dtype) if t.is_floating_point() else t).eval().requires_grad_(False)
