"""Loss on pictures kept out, at fixed timesteps with fixed noise: the curve that says something.

The training loss is mostly the luck of its timesteps; here every number but the weights stays the same.
"""

from dataclasses import dataclass, replace

import torch

from detour.bases.denoiser import Denoiser
from detour.bases.text import Conditioning
from detour.diffusion.process import Process
from detour.diffusion.randomness import generator
from detour.training.batches import Batch, stack_latents, stack_masks, stack_size_ids
from detour.training.cache import TrainingData
from detour.training.order import group_places
from detour.training.step import batch_loss, set_adapter_dropout

MAX_PASSES = 64
"""Samples of one validation; more pictures than fit are spread evenly."""


@dataclass(frozen=True)
class FixedValidation:
    """Samples (picture, timestep) and their noise; the same at every step of a run.

    Attributes:
        batches: without their texts' newest states.
        data: where those come from; text encoders that train answer otherwise at every step.
    """

    batches: tuple[Batch, ...]
    data: TrainingData

    @torch.no_grad()
    def loss(self, denoiser: Denoiser) -> float:
        """Unweighted denoising error over all samples, without dropout."""
        set_adapter_dropout(denoiser.network, on=False)
        total = sum(float(batch_loss(denoiser, self._now(batch))) * len(batch) for batch in self.batches)
        return total / sum(len(batch) for batch in self.batches)

    def _now(self, batch: Batch) -> Batch:
        captions = [self.data.captions[picture] for picture in batch.pictures]
        return replace(batch, text=self.data.text.conditioning(captions))


def fixed_validation(
    data: TrainingData,
    *,
    seed: int,
    batch: int,
    num_timesteps: int,
    process: Process,
) -> FixedValidation:
    """Lay down what is validated.

    Args:
        data: of the pictures kept out; their latents' means are taken, not mirrored.
        seed: of the run.
        batch: samples in one pass.
        num_timesteps: timesteps a picture, in the middles of as many equal parts of the schedule.
        process: of the run.
    """
    num = max(1, min(data.latents.num_pictures, MAX_PASSES // num_timesteps))
    pictures = [i * data.latents.num_pictures // num for i in range(num)]
    times = process.spread(num_timesteps)
    batches = []
    for places in group_places([data.latents.shape_of(picture) for picture in pictures]):
        pairs = [(pictures[place], time) for place in places for time in times]
        batches += [
            _batch(pairs[start : start + batch], data, seed, process) for start in range(0, len(pairs), batch)
        ]
    return FixedValidation(tuple(batches), data)


def _batch(pairs: list[tuple[int, float]], data: TrainingData, seed: int, process: Process) -> Batch:
    pictures = [picture for picture, _ in pairs]
    noise = [
        torch.randn(
            data.latents.shape_of(picture),
            generator=generator(seed, "validation", picture, process.name_of(time)),
        )
        for picture, time in pairs
    ]
    return Batch(
        latents=stack_latents([data.latents.moments(picture, 0)[0] for picture in pictures]),
        noise=torch.stack(noise),
        times=process.times([time for _, time in pairs]),
        text=Conditioning(torch.empty(len(pairs), 0, 0)),
        pictures=tuple(pictures),
        mask=stack_masks([data.mask_of(picture, 0, 0) for picture in pictures], noise[0].shape),
        size_ids=stack_size_ids([data.size_ids_of(picture, 0, 0) for picture in pictures]),
        shown=None if data.shown is None else data.shown[pictures],
    )
