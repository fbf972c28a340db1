"""Flux and SD 3 in miniature, of diffusers' true classes, and the names that their original code gives their layers."""

from typing import Any

import torch
from torch import Tensor

from detour.adapters.adapter import Adapter, LoraLayer
from detour.adapters.targets import adaptable_layers
from tests.adapter_files.reference_keys.make import flux, sd3

WIDTH = 16
DEPTH = 2


def tiny_flux() -> Any:
    from diffusers import FluxTransformer2DModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FluxTransformer2DModel(
            patch_size=1, in_channels=4, num_layers=DEPTH, num_single_layers=DEPTH, attention_head_dim=8,
            num_attention_heads=2, joint_attention_dim=12, pooled_projection_dim=10, guidance_embeds=True,
            axes_dims_rope=(2, 2, 4),
        ).eval().requires_grad_(False)  # fmt: skip


def tiny_sd3() -> Any:
    """As SD 3.5 medium: a second attention in the first block, and norms of q and k."""
    from diffusers import SD3Transformer2DModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SD3Transformer2DModel(
            sample_size=8, patch_size=2, in_channels=4, num_layers=DEPTH, attention_head_dim=8,
            num_attention_heads=2, joint_attention_dim=12, caption_projection_dim=WIDTH, pooled_projection_dim=10,
            out_channels=4, pos_embed_max_size=8, dual_attention_layers=(0,), qk_norm="rms_norm",
        ).eval().requires_grad_(False)  # fmt: skip


def flux_names() -> list[str]:
    """Every Linear of the original Flux, with its dots."""
    return flux(DEPTH, DEPTH)


def sd3_names() -> list[str]:
    """Every Linear and convolution of the original MMDiT."""
    return sd3(DEPTH, range(1))


def lora_on(model: Any, *, part: str = "transformer", rank: int = 2) -> Adapter:
    """A layer on every Linear and convolution; each third has another rank, each fourth another alpha."""
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Tensor:
        return 0.2 * torch.randn(shape, generator=generator)

    layers = {}
    for index, layer in enumerate(adaptable_layers(model)):
        mine = rank + (index % 3 == 2)
        conv = layer.kind == "conv"
        layers[f"{part}.{layer.path}"] = LoraLayer(
            down=random(mine, layer.in_features, *(layer.kernel if conv else ())),
            up=random(layer.out_features, mine, *((1, 1) if conv else ())),
            alpha=5.0 if index % 4 == 3 else 1.5,
        )
    return Adapter(layers)
