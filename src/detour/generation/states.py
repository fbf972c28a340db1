"""One picture while it is drawn: everything that belongs to it and to no other."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from detour.adapters.mixed import RowGroup
from detour.adapters.prepared import PreparedAdapter
from detour.adapters.reference_rows import RowReference
from detour.bases.latents import NOT_FINITE
from detour.bases.text import Conditioning
from detour.diffusion.guidance import Guidance
from detour.errors import ConfigError, PictureNotFinite
from detour.generation.requests import PictureRequest
from detour.generation.starts import Kept
from detour.generation.strength import is_guided, weight_at
from detour.generation.widths import WidthClass
from detour.specs.resolved import ResolvedPicture

_NUMBERS = itertools.count()

PROMPT_ROW = 1
"""Row of the prompt where a picture has several: behind what guidance steers away from."""


@dataclass(kw_only=True, eq=False)
class PictureState:
    """A picture between two steps.

    Attributes:
        request: what was asked.
        how: with every ``auto`` resolved.
        width: rows of every forward pass that it is part of.
        guidance: of this picture alone.
        conditioning: one row for each prediction that guidance needs, on the device.
        sizes: (6,) what a network that reads sizes is told, float32.
        sampler: a diffusers scheduler of its own; it keeps state between steps.
        generator: of the start noise, and of samplers that add noise.
        latents: (1, C, h, w) float32, in the sampler's own scale.
        adapters: with their strengths as asked.
        references: pictures that its rows are shown, at their strengths as asked.
        skipped: forward passes that a picture begun from another one leaves out.
        original: what stays of the picture that it was begun from, where a mask says so.
        index: forward passes that are done.
        deep: (num_rows, C, h, w) deep features of the last whole pass, where later ones reuse them.
        kept: step → latents in the scale of the autoencoder, for the moments that were asked for.
    """

    request: PictureRequest
    how: ResolvedPicture
    width: WidthClass
    guidance: Guidance
    conditioning: Conditioning
    sizes: Tensor
    sampler: Any
    generator: torch.Generator
    latents: Tensor
    adapters: tuple[tuple[PreparedAdapter, float], ...] = ()
    references: tuple[RowReference, ...] = ()
    skipped: int = 0
    original: Kept | None = None
    index: int = 0
    deep: Tensor | None = None
    kept: dict[int, Tensor] = field(default_factory=dict)
    number: int = field(default_factory=lambda: next(_NUMBERS))

    @cached_property
    def timesteps(self) -> list[Tensor]:
        """Time of each forward pass."""
        return list(self.sampler.timesteps[self.skipped :])

    @cached_property
    def moments(self) -> dict[int, int]:
        """Forward pass → step of the moments that are kept.

        Samplers that warm up (PNDM) take more forward passes than steps.
        """
        steps, passes = self.how.steps, len(self.timesteps)
        wanted = {-(-steps * part // self.request.trace) for part in range(1, self.request.trace + 1)}
        return {-(-step * passes // steps): step for step in sorted(wanted)}

    @property
    def is_finished(self) -> bool:
        """Whether all forward passes are done."""
        return self.index >= len(self.timesteps)

    @property
    def steps_done(self) -> int:
        """Steps that are done, of ``how.steps``."""
        return self.index * self.how.steps // len(self.timesteps)

    @property
    def company(self) -> tuple[Any, ...]:
        """Pictures of equal company can share forward passes; those of one :attr:`kind` share the next one."""
        text = self.conditioning
        pooled = None if text.pooled is None else tuple(text.pooled.shape[1:])
        return (
            self.width,
            tuple(self.latents.shape[1:]),
            tuple(text.states.shape[1:]),
            pooled,
            text.mask is None,
            text.guidance is None,
        )

    @property
    def order(self) -> tuple[Any, ...]:
        """Pictures in this order have rows of equal ranks and equal adapters beside each other."""
        return (
            self.kind,
            self.num_rows,
            [adapter.rank for adapter, _ in self.adapters],
            [adapter.number for adapter, _ in self.adapters],
            self.number,
        )

    @property
    def is_guided(self) -> bool:
        """Whether the next forward pass lies in the guidance interval."""
        return is_guided(self.how.guidance_interval, self.index, len(self.timesteps))

    @property
    def num_rows(self) -> int:
        """Rows of the next forward pass: outside of the guidance interval the prompt's alone."""
        return self.guidance.num_rows if self.is_guided else 1

    @property
    def pass_width(self) -> int:
        """Rows that the next forward pass is filled up to: half the width class where guidance takes no row."""
        return self.width if self.num_rows == self.guidance.num_rows else self.width // 2

    @property
    def reuses_deep(self) -> bool:
        """Whether the next forward pass takes the deep features of an earlier one."""
        own = self.deep
        return self.index % self.how.deep_every != 0 and own is not None and len(own) == self.num_rows

    @property
    def kind(self) -> tuple[int, bool]:
        """Pictures of equal company can share the next forward pass where they are of one kind."""
        return (self.pass_width, self.reuses_deep)

    @property
    def is_alone(self) -> bool:
        """Whether the picture fills its next forward pass, so that no other one can ever join it."""
        return self.pass_width == self.num_rows

    @property
    def texts(self) -> Conditioning:
        """Text states of the next forward pass, one row for each of :attr:`num_rows`."""
        if self.num_rows == self.guidance.num_rows:
            return self.conditioning
        return self.conditioning.select([PROMPT_ROW])

    @property
    def time(self) -> Tensor:
        """Time of the next forward pass as the sampler counts it; a scalar."""
        return self.timesteps[self.index]

    @property
    def network_input(self) -> Tensor:
        """(1, C, h, w) float32: the latents as the network wants them at the next time."""
        # Samplers of a rectified flow have no scale of their own.
        scale = getattr(self.sampler, "scale_model_input", None)
        scaled: Tensor = self.latents if scale is None else scale(self.latents, self.time)
        return scaled

    @property
    def rows(self) -> RowGroup:
        """The picture's rows with its adapters at the strengths of the next step."""
        factor = 1.0
        if self.request.step_weights:
            factor = weight_at(self.request.step_weights, self.index, len(self.timesteps))
        adapters = tuple((adapter, strength * factor) for adapter, strength in self.adapters)
        return RowGroup(
            self.num_rows, tuple(pair for pair in adapters if pair[1] != 0), self._references_now()
        )

    def _references_now(self) -> tuple[RowReference, ...]:
        found = []
        for one, used in zip(self.references, self.request.references, strict=True):
            weights = used.step_weights
            factor = weight_at(weights, self.index, len(self.timesteps)) if weights else 1.0
            if one.strength * factor != 0:
                found.append(replace(one, strength=one.strength * factor))
        return tuple(found)

    def advance(self, predictions: Tensor, noise_scale: float = 1.0) -> None:
        """Make one step of the sampler.

        Args:
            predictions: (num_rows, C, h, w) float32, the network's answers for the picture's rows.
            noise_scale: turns differences of them into differences of noises; guidance may need it.

        Raises:
            PictureNotFinite: the latents are not finite any more.
        """
        guided = len(predictions) == self.guidance.num_rows
        prediction = self.guidance.combine(predictions, noise_scale)[None] if guided else predictions
        known: dict[str, Any] = {"generator": self.generator, "eta": self.how.eta}
        sampler: Any = type(self.sampler)
        extra = {name: known[name] for name in _options(sampler)}
        self.latents = self.sampler.step(prediction, self.time, self.latents, **extra, return_dict=False)[0]
        self.index += 1
        if self.original is not None:
            time = None if self.is_finished else self.time
            self.latents = self.original.held(self.latents, self.sampler, time)
        if not torch.isfinite(self.latents).all():
            raise PictureNotFinite(NOT_FINITE)
        if self.index in self.moments:
            self.kept[self.moments[self.index]] = self.latents if self.is_finished else self.network_input


@functools.cache
def _options(sampler: type[Any]) -> tuple[str, ...]:
    """Which of what a picture has its sampler's step takes."""
    return tuple(name for name in ("generator", "eta") if name in inspect.signature(sampler.step).parameters)


def seeded(seed: int) -> torch.Generator:
    """A generator on the CPU, whatever the device, so that a seed means the same everywhere.

    Raises:
        ConfigError: a seed that is out of range.
    """
    check_seed(seed)
    return torch.Generator("cpu").manual_seed(seed)


def start_noise(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """(1, C, h, w) float32 noise on the CPU, the generator's next numbers."""
    return torch.randn((1, *shape), generator=generator)


def check_seed(seed: int) -> None:
    """Raise if a generator would not take it.

    Raises:
        ConfigError: says which ones it takes.
    """
    if not 0 <= seed < 2**63:
        raise ConfigError(f"seed {seed}: choose one from 0 to {2**63 - 1}.")
