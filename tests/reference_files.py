"""IP-Adapters in miniature, under the names of the published files, and image encoders that they read."""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from detour.adapters.reference_rows import cross_attentions

ENCODER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "projection_dim": 24,
}
NUM_PATCHES = 17
Kind = Literal["plain", "plus", "full"]


def make_image_encoder(folder: Path, *, seed: int = 0, **settings: int) -> Path:
    """Write a random CLIP image encoder (32 px, hidden states of width 32, embedding of 24)."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    sizes: dict[str, Any] = {**ENCODER, **settings}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes))
    model.save_pretrained(folder)
    return folder


def numbers(seed: int, *shape: int, scale: float = 0.3) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def projection(kind: Kind, text_width: int, *, tokens: int = 4, inner: int = 32) -> dict[str, Tensor]:
    """Tensors of a projection, behind ``image_proj.``."""
    hidden, pooled = ENCODER["hidden_size"], ENCODER["projection_dim"]
    if kind == "plain":
        return {
            "proj.weight": numbers(1, tokens * text_width, pooled),
            "proj.bias": numbers(2, tokens * text_width),
            "norm.weight": 1 + numbers(3, text_width),
            "norm.bias": numbers(4, text_width),
        }
    if kind == "full":
        return {
            "proj.0.weight": numbers(1, hidden, hidden),
            "proj.0.bias": numbers(2, hidden),
            "proj.2.weight": numbers(3, text_width, hidden),
            "proj.2.bias": numbers(4, text_width),
            "proj.3.weight": 1 + numbers(5, text_width),
            "proj.3.bias": numbers(6, text_width),
        }
    found = {
        "latents": numbers(1, 1, tokens, inner, scale=1.0),
        "proj_in.weight": numbers(2, inner, hidden),
        "proj_in.bias": numbers(3, inner),
        "proj_out.weight": numbers(4, text_width, inner),
        "proj_out.bias": numbers(5, text_width),
        "norm_out.weight": 1 + numbers(6, text_width),
        "norm_out.bias": numbers(7, text_width),
    }
    for layer in range(4):
        seed = 10 * layer + 20
        for name in ("0.norm1", "0.norm2", "1.0"):
            found[f"layers.{layer}.{name}.weight"] = 1 + numbers(seed, inner)
            found[f"layers.{layer}.{name}.bias"] = numbers(seed + 1, inner)
        found[f"layers.{layer}.0.to_q.weight"] = numbers(seed + 2, 64, inner)
        found[f"layers.{layer}.0.to_kv.weight"] = numbers(seed + 3, 128, inner)
        found[f"layers.{layer}.0.to_out.weight"] = numbers(seed + 4, inner, 64)
        found[f"layers.{layer}.1.1.weight"] = numbers(seed + 5, 4 * inner, inner)
        found[f"layers.{layer}.1.3.weight"] = numbers(seed + 6, inner, 4 * inner)
    return found


def reference_tensors(network: Any, kind: Kind, **sizes: int) -> dict[str, Tensor]:
    """A whole IP-Adapter for a UNet, with random tensors."""
    width = int(network.config["cross_attention_dim"])
    found = {f"image_proj.{name}": tensor for name, tensor in projection(kind, width, **sizes).items()}
    for index, module in enumerate(cross_attentions(network).values()):
        inner = int(module.inner_dim)  # type: ignore[arg-type]
        found[f"ip_adapter.{2 * index + 1}.to_k_ip.weight"] = numbers(100 + index, inner, width)
        found[f"ip_adapter.{2 * index + 1}.to_v_ip.weight"] = numbers(200 + index, inner, width)
    return found
