"""What is shown at a step, as a pure function of (seed, step, sample): nothing to save, nothing to resume."""

from dataclasses import dataclass

import torch
from torch import Tensor

from detour.bases.text import Conditioning
from detour.diffusion.randomness import chance_for, noise_for, order_for_epoch, timestep_for
from detour.training.cache import TrainingData


@dataclass(frozen=True)
class Batch:
    """One micro-batch on the CPU.

    Attributes:
        latents: (N, C, h, w) float32, drawn from the cached mean and standard deviation.
        noise: as ``latents``, standard normal.
        timesteps: (N,) int64.
        text: states of N captions, or the unconditional ones where the caption was dropped.
        pictures: (N,) which picture each sample is.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    text: Conditioning
    pictures: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """What a run shows at each step.

    Attributes:
        seed: of the run.
        batch: samples in a micro-batch.
        grad_accum: micro-batches in a step.
        caption_dropout: share of the samples with the unconditional text.
        num_timesteps: length of the noise schedule.
    """

    seed: int
    batch: int
    grad_accum: int = 1
    caption_dropout: float = 0.0
    num_timesteps: int = 1000

    def samples(self, micro: int) -> range:
        """Positions in the step's whole batch: two half batches are the halves of the full one."""
        return range(micro * self.batch, (micro + 1) * self.batch)

    def place_at(self, step: int, sample: int, epoch_length: int) -> int:
        """Which place of the epoch is shown: each epoch is a permutation of its own, and epochs run across steps."""
        shown_before = step * self.batch * self.grad_accum + sample
        epoch, position = divmod(shown_before, epoch_length)
        return int(order_for_epoch(self.seed, epoch, epoch_length)[position])


def draw_batch(plan: BatchPlan, data: TrainingData, step: int, micro: int) -> Batch:
    """Micro-batch ``micro`` of step ``step``, both from 0."""
    samples = plan.samples(micro)
    latents = data.latents
    pictures = [data.epoch[plan.place_at(step, sample, len(data.epoch))] for sample in samples]
    views = [int(chance_for(plan.seed, step, s, purpose="flip") * latents.num_views) for s in samples]

    def normal(purpose: str) -> Tensor:
        return torch.stack(
            [noise_for(plan.seed, step, s, latents.latent_shape, purpose=purpose) for s in samples]
        )

    def caption(sample: int, picture: int) -> str | None:
        dropped = chance_for(plan.seed, step, sample, purpose="caption") < plan.caption_dropout
        return None if dropped else data.captions[picture]

    return Batch(
        latents=latents.means[views, pictures] + latents.stds[views, pictures] * normal("latent"),
        noise=normal("noise"),
        timesteps=torch.tensor(
            [timestep_for(plan.seed, step, s, num_timesteps=plan.num_timesteps) for s in samples]
        ),
        text=data.text.conditioning([caption(s, p) for s, p in zip(samples, pictures, strict=True)]),
        pictures=tuple(pictures),
    )
