"""Classifier-free guidance: ask the UNet twice, with the prompt and without it, and exaggerate the difference.

The difference of the two answers is what the prompt adds. Taken as it is (scale 1) prompts are kept loosely; taken
several times over they are kept well, colours saturate and pictures of one prompt come to look alike. Training makes
the second answer possible by leaving the caption out now and then.
"""

from collections.abc import Callable

import torch
from torch import Tensor

UNet = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(latents, timestep, text states) → predicted noise."""


def guided_prediction(
    unet: UNet, latents: Tensor, timestep: Tensor, text: Tensor, no_text: Tensor, *, scale: float
) -> Tensor:
    """The prediction to give to a sampler in place of the UNet's own.

    Args:
        unet: takes a batch.
        latents: (N, C, H, W).
        timestep: scalar.
        text: (N, L, D) states of the prompts.
        no_text: (N, L, D) states of what to steer away from: the empty prompt in SD 1.x, zeros in SDXL, or a
            negative prompt.
        scale: 1 is the prompt alone, 0 no prompt. The paper's ``w`` is ``scale − 1``.

    Source: Ho and Salimans 2022, arXiv:2207.12598, equation 6.
    """
    # One pass of twice the pictures costs less than two passes.
    both = unet(torch.cat([latents, latents]), timestep, torch.cat([no_text, text]))
    without, with_prompt = both.chunk(2)
    return without + scale * (with_prompt - without)
