"""How the network of each architecture is called: what it takes beside noisy latents, and in which layout.

One function an architecture. Everything that a network wants and others do not (added conditioning, packing, position
ids, masks, an embedded guidance value) stays here; whoever trains or draws calls
:meth:`detour.bases.denoiser.Denoiser.predict` and knows none of it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from detour.bases.text import Conditioning

NetworkCall = Callable[[nn.Module, Tensor, Tensor, Conditioning, Tensor], Tensor]
"""(network, noisy latents, times in the network's units, conditioning, sizes) → prediction, all of N rows.

Sizes are (N, 6): original height and width, top and left of the crop, target height and width, in pixels.
"""


def call_unet(network: nn.Module, noisy: Tensor, times: Tensor, text: Conditioning, sizes: Tensor) -> Tensor:
    """Ask a UNet of Stable Diffusion 1.x, 2.x or XL; shapes as in :data:`NetworkCall`.

    SDXL is told a pooled text state and the sizes beside the text states.
    """
    extra: dict[str, Any] = {}
    if text.mask is not None:
        extra["encoder_attention_mask"] = text.mask
    if text.pooled is not None:
        extra["added_cond_kwargs"] = {
            "text_embeds": text.pooled,
            "time_ids": sizes.to(text.pooled.device, text.pooled.dtype),
        }
    prediction: Tensor = network(noisy, times, encoder_hidden_states=text.states, return_dict=False, **extra)[
        0
    ]
    return prediction


def call_sd3(network: nn.Module, noisy: Tensor, times: Tensor, text: Conditioning, sizes: Tensor) -> Tensor:
    """Ask the MMDiT of SD 3 and SD 3.5; shapes as in :data:`NetworkCall`, times from 0 to 1000 in float32."""
    del sizes
    prediction: Tensor = network(
        hidden_states=noisy,
        timestep=times,
        encoder_hidden_states=text.states,
        pooled_projections=text.pooled,
        return_dict=False,
    )[0]
    return prediction


def call_flux(network: nn.Module, noisy: Tensor, times: Tensor, text: Conditioning, sizes: Tensor) -> Tensor:
    """Ask Flux's transformer, which reads packed patches; shapes as in :data:`NetworkCall`.

    diffusers 0.42's transformer takes times and guidance divided by 1000, rounds them to the precision of the
    weights and multiplies by 1000: in bfloat16 timestep 750 would become 752 (diffusers#9405). Its embedding of time
    and guidance is therefore handed the exact float32 values.
    """
    del sizes
    height, width = noisy.shape[-2] // 2, noisy.shape[-1] // 2
    guidance = None
    if getattr(network, "config", {}).get("guidance_embeds"):
        guidance = torch.ones_like(times) if text.guidance is None else text.guidance.to(times)
    exact = (times,) if guidance is None else (times, guidance * 1000)
    embedding: Any = network.get_submodule("time_text_embed")
    handle = embedding.register_forward_pre_hook(lambda _, given: (*exact, given[-1]))
    try:
        packed: Tensor = network(
            hidden_states=pack_latents(noisy),
            timestep=times / 1000,
            guidance=guidance,
            encoder_hidden_states=text.states,
            pooled_projections=text.pooled,
            txt_ids=torch.zeros(text.states.shape[1], 3, device=noisy.device),
            img_ids=image_ids(height, width).to(noisy.device),
            return_dict=False,
        )[0]
    finally:
        handle.remove()
    return unpack_latents(packed, height, width)


def pack_latents(latents: Tensor) -> Tensor:
    """2×2 patches of latents as a sequence: (N, C, 2h, 2w) → (N, h·w, 4C), as Flux reads them."""
    rows, channels, height, width = latents.shape
    patches = latents.view(rows, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(rows, (height // 2) * (width // 2), channels * 4)


def unpack_latents(packed: Tensor, height: int, width: int) -> Tensor:
    """Latents (N, C, 2h, 2w) of packed ones (N, h·w, 4C): the inverse of :func:`pack_latents`.

    Args:
        packed: (N, h·w, 4C).
        height: h, in patches.
        width: w, in patches.
    """
    rows, _, channels = packed.shape
    patches = packed.view(rows, height, width, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(rows, channels // 4, 2 * height, 2 * width)


def image_ids(height: int, width: int) -> Tensor:
    """Positions (0, y, x) of h·w patches, (h·w, 3) float32, for Flux's rotary embedding."""
    ids = torch.zeros(height, width, 3)
    ids[..., 1] = torch.arange(height)[:, None]
    ids[..., 2] = torch.arange(width)[None, :]
    return ids.reshape(height * width, 3)


NETWORK_CALLS: Mapping[str, NetworkCall] = {
    "UNet2DConditionModel": call_unet,
    "SD3Transformer2DModel": call_sd3,
    "FluxTransformer2DModel": call_flux,
}
"""Class of the network in diffusers → how it is called."""
