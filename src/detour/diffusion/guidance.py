"""Guidance: how many predictions a picture needs for one step, and how they become one."""

from dataclasses import dataclass
from typing import Protocol

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


@dataclass(frozen=True)
class GuidanceScales:
    """The two kinds of guidance of a picture.

    Attributes:
        true: of classifier-free guidance, which takes a second prediction; at 1 or less there is none, and a negative
            prompt has no effect.
        embedded: what a network with an embedding of the guidance scale is told (Flux-dev); ``None`` for all others.
    """

    true: float
    embedded: float | None = None


def guidance_scales(scale: float, true_scale: float, *, embeds: bool) -> GuidanceScales:
    """Tell what a guidance scale means for a network.

    Args:
        scale: the guidance scale that was asked for.
        true_scale: of classifier-free guidance on a network that is told ``scale``.
        embeds: whether the network is told a guidance scale.
    """
    return GuidanceScales(true_scale, scale) if embeds else GuidanceScales(scale)


class Guidance(Protocol):
    """Combines the predictions for one picture; an object of one picture, so that it may keep what a step left."""

    @property
    def num_rows(self) -> int:
        """Predictions that it needs: 1 (the prompt), 2 (what to steer away from, the prompt), or more texts behind."""

    def combine(self, predictions: Tensor, noise_scale: float = 1.0) -> Tensor:
        """Make one prediction of several.

        Args:
            predictions: (num_rows, C, h, w) in the order of :attr:`num_rows`.
            noise_scale: what a difference of two predictions is multiplied with to be a difference of noises
                (:meth:`detour.diffusion.process.Process.noise_scale`); 1 where the network predicts noise.

        Returns:
            (C, h, w).
        """


@dataclass(frozen=True)
class ClassifierFree:
    """Classifier-free guidance; at a scale of 1 or less the prompt's prediction alone.

    Attributes:
        scale: unitless.
    """

    scale: float

    @property
    def num_rows(self) -> int:
        """2, or 1 where the scale switches guidance off."""
        return 2 if self.scale > 1 else 1

    def combine(self, predictions: Tensor, noise_scale: float = 1.0) -> Tensor:  # noqa: ARG002
        """:func:`guided` of the two predictions, (2, C, h, w) → (C, h, w); of one, the prediction itself."""
        if self.num_rows == 1:
            return predictions[0]
        return guided(predictions[1], predictions[0], self.scale)
