"""Adapters whose layers exist in the tiny base, with ranks and alphas that a careless conversion loses."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from detour.adapters.adapter import Adapter, LoraLayer
from detour.adapters.analysis import relative_differences
from detour.adapters.targets import AdaptableLayer
from detour.bases.families import FAMILIES

SD1 = FAMILIES["sd1"]
SDXL = FAMILIES["sdxl"]


def adapter_for(layers: list[AdaptableLayer], *, seed: int = 0, one_alpha: bool = False) -> Adapter:
    """Random factors for every layer of a UNet; each fifth has another rank, each seventh another alpha."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return 0.1 * torch.randn(shape, generator=generator)

    made = {}
    for index, layer in enumerate(layers):
        mine = 2 if index % 5 == 4 else 4
        if layer.kind == "conv":
            down = random(mine, layer.in_features, *layer.kernel)
            up = random(layer.out_features, mine, 1, 1)
        else:
            down, up = random(mine, layer.in_features), random(layer.out_features, mine)
        made[f"unet.{layer.path}"] = LoraLayer(
            down=down, up=up, alpha=2.5 if index % 7 == 6 and not one_alpha else 16.0
        )
    return Adapter(made)


def small_adapter(*, rank: int = 2, alpha: float = 8.0, text: bool = False, width: int = 32) -> Adapter:
    """Three UNet layers, one a convolution, and on request one of the text encoder."""
    attention = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2"
    layers = {
        f"{attention}.to_k": LoraLayer(down=_numbers(rank, width), up=_numbers(32, rank), alpha=alpha),
        f"{attention}.to_out.0": LoraLayer(
            down=_numbers(rank + 1, 32), up=_numbers(32, rank + 1), alpha=alpha
        ),
        "unet.conv_in": LoraLayer(down=_numbers(rank, 4, 3, 3), up=_numbers(32, rank, 1, 1), alpha=1.5),
    }
    if text:
        key = "text_encoder.encoder.layers.1.self_attn.q_proj"
        layers[key] = LoraLayer(down=_numbers(rank, 32), up=_numbers(32, rank), alpha=3.0)
    return Adapter(layers, {"modelspec.title": "neon"})


def _numbers(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator)


def assert_same(a: Adapter, b: Adapter) -> None:
    """Every layer, factor and alpha to the bit."""
    assert set(a.layers) == set(b.layers)
    layers: Mapping[str, Any] = a.layers
    others: Mapping[str, Any] = b.layers
    for key, layer in layers.items():
        assert torch.equal(layer.down.flatten(), others[key].down.flatten()), key
        assert torch.equal(layer.up.flatten(), others[key].up.flatten()), key
        assert layer.alpha == others[key].alpha, key


def assert_same_change(a: Adapter, b: Adapter) -> None:
    """Every layer, its rank and its change; factors and alpha may stand for it otherwise."""
    assert {key: layer.rank for key, layer in a.layers.items()} == {
        key: layer.rank for key, layer in b.layers.items()
    }
    assert max(relative_differences(a, b).values()) < 1e-6
