"""One tick: a batch of pictures, each at a time of its own, goes one step further."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor

from detour.adapters.mixed import RowPlan, plan_rows
from detour.bases.text import Conditioning
from detour.diffusion.process import Process
from detour.errors import DetourError
from detour.generation.deep_features import DeepFeatures
from detour.generation.metering import Meter
from detour.generation.states import PictureState

KEPT_BATCHES = 8
"""Batches whose stacked adapters and texts are kept from one tick to the next; more go round seldom."""


class AsksNetwork(Protocol):
    """The network of a base (``detour.bases.denoiser.Denoiser``)."""

    @property
    def process(self) -> Process:
        """The base's process, which turns a sampler's times into those that the network is asked at."""

    @property
    def part(self) -> str:
        """Part of the base that it is; layer keys of adapters begin with it."""

    def predict(
        self, noisy: Tensor, times: Tensor, text: Conditioning, sizes: Tensor | None = None
    ) -> Tensor:
        """(N, C, h, w) latents at (N,) times → (N, C, h, w)."""


@dataclass(frozen=True, eq=False)
class Company:
    """What stays the same while a batch of pictures has the same members and strengths.

    Attributes:
        conditioning: N rows.
        sizes: (N, 6).
        plan: the rows' adapters.
    """

    conditioning: Conditioning
    sizes: Tensor
    plan: RowPlan


@dataclass
class Runner:
    """Takes pictures one step further; knows nothing of queues, prompts or files.

    Attributes:
        denoiser: answers for noisy latents.
        deep: of the denoiser's UNet; ``None`` for a transformer.
        meter: counts the time and rows of the passes.
    """

    denoiser: AsksNetwork
    deep: DeepFeatures | None = None
    meter: Meter = field(default_factory=Meter)
    _kept: dict[tuple[tuple[object, ...], ...], Company] = field(default_factory=dict, repr=False)

    def tick(self, states: Sequence[PictureState]) -> dict[PictureState, Exception]:
        """Take one step of each picture, in one forward pass for each kind of pass.

        Args:
            states: of equal ``company``, none finished; their rows fit in their width.

        Returns:
            the pictures that failed and why; all others went one step further.
        """
        states = sorted(states, key=lambda state: state.order)
        passes = [list(same) for _, same in groupby(states, key=lambda state: state.kind)]
        failed: dict[PictureState, Exception] = {}
        for few in passes:
            failed |= self._pass(few)
        return failed

    def _pass(self, states: Sequence[PictureState]) -> dict[PictureState, Exception]:
        """One forward pass of pictures whose next pass is of one kind."""
        failed: dict[PictureState, Exception] = {}
        try:
            predictions = self._predict(states)
        except Exception as error:
            if len(states) == 1:
                return {states[0]: error}
            # One of them may be the cause: each alone, at the same width, has the same bits as in company.
            for state in states:
                failed |= self._pass([state])
            return failed
        start = 0
        for state in states:
            end = start + state.num_rows
            try:
                state.advance(predictions[start:end], self._noise_scale(state))
                self.meter.count("other")
            except Exception as error:
                failed[state] = error
            start = end
        return failed

    def forget(self, state: PictureState) -> None:
        """Let go of what is kept of batches that the picture was part of."""
        self._kept = {
            key: made for key, made in self._kept.items() if all(one[0] != state.number for one in key)
        }

    def forget_all(self) -> None:
        """Let go of everything that is kept between ticks: nobody is drawing."""
        self._kept.clear()

    def inputs(self, states: Sequence[PictureState]) -> tuple[Tensor, Tensor, Conditioning, Tensor]:
        """What the network is handed for the states in the order given, but for their adapters.

        Returns:
            noisy latents (N, C, h, w) float32, times (N,), text of N rows, and sizes (N, 6); N is the pass's width.
        """
        company = self._company(states)
        rows = [row for state in states for row in [state.network_input] * state.num_rows]
        # Samplers keep times as integers or floats; all of them are exact in float32.
        times = [state.time.float() for state in states for _ in range(state.num_rows)]
        missing = states[0].pass_width - len(rows)
        # One layout whatever the rows': joined rows that are all channels-last take other kernels, and other bits.
        noisy = torch.cat([*rows, *rows[:1] * missing]).contiguous()
        at = torch.stack([*times, *times[:1] * missing])
        return noisy, self.denoiser.process.times_of(at), company.conditioning, company.sizes

    def _noise_scale(self, state: PictureState) -> float:
        """The process's factor at the time of the state's next step."""
        process = self.denoiser.process
        if process.predicts == "noise":
            return 1.0
        return process.noise_scale(float(process.times_of(state.time.float().reshape(1))))

    @torch.no_grad()
    def _predict(self, states: Sequence[PictureState]) -> Tensor:
        """(rows, C, h, w) float32, without the rows that fill the batch up."""
        inputs = self.inputs(states)
        rows, how = sum(state.num_rows for state in states), states[0].how
        adapters = {adapter.number for state in states for adapter, _ in state.rows.adapters}
        with (
            self.meter.forward_pass(
                width=states[0].pass_width,
                rows=rows,
                adapters=len(adapters),
                area=self.meter.area(how.width_px, how.height_px),
            ),
            self._company(states).plan.active(),
            self._deep(states),
        ):
            answer = self.denoiser.predict(*inputs)
        return answer[:rows].float()

    @contextlib.contextmanager
    def _deep(self, states: Sequence[PictureState]) -> Iterator[None]:
        """A block whose pass keeps deep features for the states that want them, or reuses theirs."""
        if self.deep is None or all(state.how.deep_every == 1 for state in states):
            yield
        elif states[0].reuses_deep:
            rows = [state.deep for state in states if state.deep is not None]
            missing = states[0].pass_width - sum(map(len, rows))
            with self.deep.reusing(torch.cat([*rows, *[rows[0][:1]] * missing])):
                yield
        else:
            with self.deep.keeping() as kept:
                yield
            start = 0
            for state in states:
                end = start + state.num_rows
                if state.how.deep_every > 1:
                    state.deep = kept[0][start:end].clone()
                start = end

    def _company(self, states: Sequence[PictureState]) -> Company:
        groups = [state.rows for state in states]
        key = tuple(
            (
                state.number,
                group.num_rows,
                *(s for _, s in group.adapters),
                *((r.reference.number, r.strength) for r in group.references),
            )
            for state, group in zip(states, groups, strict=True)
        )
        if key in self._kept:
            return self._kept[key]
        conditioning = states[0].texts
        for state in states[1:]:
            conditioning = conditioning.cat(state.texts)
        sizes = torch.stack([state.sizes for state in states for _ in range(state.num_rows)])
        missing = states[0].pass_width - len(sizes)
        if missing < 0:
            raise DetourError(f"{len(sizes)} rows do not fit in a batch of {states[0].pass_width}.")
        filled = [*range(len(sizes)), *[0] * missing]
        plan = plan_rows(groups, [self.denoiser.part], merge=states[0].is_alone)
        made = Company(conditioning.select(filled), sizes[filled], plan)
        while len(self._kept) >= KEPT_BATCHES:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = made
        return made
