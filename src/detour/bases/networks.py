"""How the network of each architecture is called: what it takes beside noisy latents, and in which layout.

One function an architecture. Everything that a network wants and others do not (added conditioning, packing, position
ids, masks, an embedded guidance value) stays here; whoever trains or draws calls
:meth:`detour.bases.denoiser.Denoiser.predict` and knows none of it.
"""

from collections.abc import Callable, Mapping
from typing import Any

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


NETWORK_CALLS: Mapping[str, NetworkCall] = {"UNet2DConditionModel": call_unet}
"""Class of the network in diffusers → how it is called."""
