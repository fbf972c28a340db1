"""Safe Latent Diffusion: guidance with a third prediction, for a concept that pictures are steered away from.

Source: Schramowski et al. 2023, arXiv:2211.05105, equations 3 to 8. ``perform_safety_guidance`` of diffusers 0.42.1
holds the same formulas, but takes the unconditional prediction for the prompt's and the prompt's for the unconditional
one; here each is what the paper says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from detour.errors import ConfigError
from detour.specs.strict import NonNegative, Share, Spec


class SafeLatentSettings(Spec):
    """Strength of Safe Latent Diffusion; the names in brackets are those of the paper."""

    scale: NonNegative
    """Factor on the difference to the concept before it is cut at 1 (λ, ``sld_guidance_scale``)."""
    threshold: float
    """Excess of the prompt's noise over the concept's from which nothing is subtracted (τ)."""
    warmup_steps: int
    """Steps at the beginning that are left as they are (δ); the momentum grows in them already."""
    momentum: NonNegative
    """Share of the momentum that is added to what is taken off (s_m, here μ)."""
    decay: Share
    """Share of the momentum that is left after a step (β_m, here β)."""


STRENGTHS: Mapping[str, SafeLatentSettings] = {
    "medium": SafeLatentSettings(scale=1000.0, threshold=0.01, warmup_steps=10, momentum=0.3, decay=0.4),
    "strong": SafeLatentSettings(scale=2000.0, threshold=0.025, warmup_steps=7, momentum=0.5, decay=0.7),
}
"""Name → settings, as the paper's table has them; they are meant for some 50 steps."""


@dataclass(eq=False)
class SafeLatent:
    """Guidance of one picture that steers away from a concept; it keeps the momentum from step to step.

    Attributes:
        scale: of classifier-free guidance; at 1 or less the prompt's prediction is what is steered.
        settings: how strongly.
        steps: that were combined.
    """

    scale: float
    settings: SafeLatentSettings
    steps: int = 0
    _momentum: Tensor | None = field(default=None, repr=False)

    @property
    def num_rows(self) -> int:
        """3: the unconditional or negative text, the prompt, and the concept."""
        return 3

    def combine(self, predictions: Tensor, noise_scale: float = 1.0) -> Tensor:
        """``u + g · (p − u − γ)``, where γ is what the concept adds.

        Args:
            predictions: (3, C, h, w): unconditional ``u``, prompt ``p``, concept ``c``.
            noise_scale: turns differences of predictions into differences of noises, which the thresholds are meant
                for; the momentum is kept as noise too, so that it means the same at every time.

        Returns:
            (C, h, w), of the kind that the network predicts.
        """
        uncond, prompt, concept = predictions
        settings, kept = self.settings, self._momentum
        difference = (prompt - concept) * noise_scale
        share = (difference.abs() * settings.scale).clamp(max=1.0)
        share = torch.where(difference >= settings.threshold, torch.zeros_like(share), share)
        away = share * (concept - uncond)
        in_noise = away * noise_scale
        if kept is not None:
            in_noise = in_noise + settings.momentum * kept
            if (
                noise_scale != 0
            ):  # in pure noise, a difference of noises of 0 stands for any difference of velocities
                away = away + (settings.momentum / noise_scale) * kept
        self._momentum = (1 - settings.decay) * in_noise + (0 if kept is None else settings.decay * kept)
        self.steps += 1
        guidance = prompt - uncond
        if self.steps > settings.warmup_steps:
            guidance = guidance - away
        return uncond + max(self.scale, 1.0) * guidance


def safe_guidance(strength: str) -> Callable[[float], SafeLatent]:
    """What makes the guidance of a picture from its guidance scale, for ``PictureRequest.guidance``.

    Args:
        strength: of :data:`STRENGTHS`.

    Raises:
        ConfigError: no such strength.
    """
    if strength not in STRENGTHS:
        raise ConfigError(
            f"no strength '{strength}' of Safe Latent Diffusion: choose {' or '.join(STRENGTHS)}."
        )
    return partial(_of_strength, strength)


def _of_strength(strength: str, scale: float) -> SafeLatent:
    return SafeLatent(scale, STRENGTHS[strength])
