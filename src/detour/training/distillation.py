"""One step of latent consistency distillation as a loss: the adapter learns to be drawn in few steps."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from detour.diffusion.consistency import consistent_answer, guided_solver_step
from detour.training.batches import Batch
from detour.training.step import TrainingLoss


@dataclass(frozen=True, kw_only=True)
class Consistency:
    """What the adapter is distilled from.

    Attributes:
        solver_steps: steps of the base's solver over the whole schedule; the student learns to agree across each.
        guidance_scale: of the base, which the adapter takes over: its own pictures need none.
        embedded: whether the network is told its guidance scale (Flux-dev) instead of being asked twice.
        teacher: switches the adapter off inside a block, so that the network is the base.
    """

    solver_steps: int
    guidance_scale: float
    embedded: bool
    teacher: Callable[[], contextlib.AbstractContextManager[None]]


@dataclass(frozen=True)
class DistillationLoss(TrainingLoss):
    """(step, micro) → consistency loss, as the loop wants it."""

    consistency: Consistency | None = None

    @cached_property
    def _ways(self) -> tuple[Tensor, Tensor]:
        """Begin and end of each step of the solver, (solver_steps,) each in the units of the process."""
        assert self.consistency is not None
        pairs = self.denoiser.process.solver_times(self.consistency.solver_steps)
        begins, ends = zip(*pairs, strict=True)
        process = self.denoiser.process
        return process.times(begins), process.times(ends)

    def of_batch(self, batch: Batch) -> Tensor:
        """Difference of the student's answers at both ends of a step of the guided base, a float32 scalar.

        The answer at the cleaner end is a target: no gradient runs through it.

        Source: Luo et al. 2023, arXiv:2310.04378, algorithm 1, without its own moving average (as diffusers'
        ``train_lcm_distill_lora_sd_wds.py``).
        """
        assert self.consistency is not None
        denoiser, process = self.denoiser, self.denoiser.process
        begins, ends = self._steps_at(batch.times)
        noisy = process.mix(batch.latents.to(denoiser.device), batch.noise.to(denoiser.device), begins)
        # The teacher's pass comes before the student's: gradient checkpointing makes the student's again afterwards,
        # and must find the adapter as it was.
        with torch.no_grad():
            reached = self._teacher_step(batch, noisy, begins, ends)
            further = denoiser.predict(reached, ends, batch.text, batch.size_ids)
            wanted = consistent_answer(process, further, reached, ends)
        prediction = denoiser.predict(noisy, begins, batch.text, batch.size_ids)
        return self.objective.loss(
            consistent_answer(process, prediction, noisy, begins),
            wanted,
            process=process,
            times=begins,
            weights=None if batch.weights is None else batch.weights.to(denoiser.device),
            mask=None if batch.mask is None else batch.mask.to(denoiser.device),
        )

    def _steps_at(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """Begin and end, (N,) each on the device, of the solver's step that each drawn time lies in."""
        begins, ends = self._ways
        places = torch.searchsorted(begins, times.cpu()).clamp_max(len(begins) - 1)
        return begins[places].to(self.denoiser.device), ends[places].to(self.denoiser.device)

    def _teacher_step(self, batch: Batch, noisy: Tensor, begins: Tensor, ends: Tensor) -> Tensor:
        assert self.consistency is not None
        denoiser, scale = self.denoiser, self.consistency.guidance_scale
        with self.consistency.teacher():
            if self.consistency.embedded or scale == 1.0:
                text = batch.text.guided_by(scale) if self.consistency.embedded else batch.text
                with_text = denoiser.predict(noisy, begins, text, batch.size_ids)
                without = with_text
            else:
                with_text, without = denoiser.predict(
                    torch.cat([noisy, noisy]),
                    torch.cat([begins, begins]),
                    batch.text.cat(self.data.text.conditioning([None] * len(batch))),
                    None if batch.size_ids is None else torch.cat([batch.size_ids, batch.size_ids]),
                ).chunk(2)
        return guided_solver_step(denoiser.process, with_text, without, noisy, begins, ends, scale=scale)
