"""Classifier-free guidance."""

from torch import Tensor


def guided(noise_text: Tensor, noise_uncond: Tensor, scale: float) -> Tensor:
    """Push the prediction away from the unconditional one: ``uncond + scale · (text − uncond)``.

    Args:
        noise_text: (N, C, H, W) prediction for the prompt.
        noise_uncond: (N, C, H, W) prediction for the negative or the family's unconditional text.
        scale: unitless; 1 is the prompt's prediction alone.

    Source: Ho and Salimans 2022, arXiv:2207.12598 (its w is ``scale − 1``).
    """
    return noise_uncond + scale * (noise_text - noise_uncond)
