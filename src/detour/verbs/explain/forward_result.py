"""What tracing the forward process returns: the figures of every noise level, and the pictures."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

FLOW = "rectified flow"
"""Name of the schedule of a flow in a trace."""


class NoiseLevel(BaseModel):
    """The picture at one timestep."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    timestep: int
    alpha_cumprod: float
    """ᾱ; ``(1 − σ)²`` of a flow."""
    snr: float
    """``ᾱ / (1 − ᾱ)``; ``(1 − σ)² / σ²`` of a flow."""
    variance: float
    """Measured variance of the noisy latents."""
    variance_expected: float
    """``ᾱ·Var(x₀) + 1 − ᾱ``; ``(1 − σ)²·Var(x₀) + σ²`` of a flow."""
    largest_difference: float
    """Largest difference of the steps and the one jump, over all numbers of the latents."""
    way_back: bool
    """Whether the way back passes here: nothing more noisy than the base was trained on can be the start of it."""


class ForwardTrace(BaseModel):
    """What the forward process did to one picture."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str
    picture: str
    caption: str
    schedule: str
    is_flow: bool = False
    """Whether the base is a rectified flow, whose noise level σ is its timestep's share of all timesteps."""
    num_timesteps: int
    clean_variance: float
    """Var(x₀) of the picture's latents; the noisy ones keep variance one only where this is one."""
    largest_difference: float
    """Largest difference of steps and jump, over all levels."""
    largest_variance_error: float
    """Largest error of the measured variance, relative to the expected."""
    levels: tuple[NoiseLevel, ...]
    alphas: tuple[float, ...] = Field(repr=False)
    """ᾱ at every timestep, (1 − σ)² of a flow: the share of the picture's variance that is left."""
    noises: tuple[float, ...] = Field(repr=False)
    """1 − ᾱ at every timestep, σ² of a flow: the variance of the noise."""
    pictures: Mapping[str, Any] = Field(default_factory=dict, exclude=True, repr=False)
    """uint8 arrays for :func:`detour.verbs.explain.forward_figure.plot_forward`; not part of the JSON."""

    def to_json(self) -> str:
        """Indented JSON without the pictures."""
        return self.model_dump_json(indent=2)
