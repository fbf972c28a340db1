"""What is shown at a step, as a pure function of (seed, step, sample): nothing to save, nothing to resume."""

from dataclasses import dataclass

import torch
from torch import Tensor

from detour.bases.text import Conditioning
from detour.diffusion.noise import PLAIN_NOISE, NoisePlan
from detour.diffusion.randomness import chance_for, derive, noise_for, order_for_epoch
from detour.training.cache import TrainingData


@dataclass(frozen=True)
class Batch:
    """One micro-batch on the CPU.

    Attributes:
        latents: (N, C, h, w) float32, drawn from the cached mean and standard deviation.
        noise: as ``latents``, what the UNet is asked for.
        timesteps: (N,) int64.
        text: states of N captions, or the unconditional ones where the caption was dropped.
        pictures: (N,) which picture each sample is; class pictures are counted on after the others.
        seen_noise: what is put on the latents where it is not ``noise`` (input perturbation).
        weights: (N,) float32, loss weight of each sample; ``None``: one each.
        mask: (N, 1, h, w) float32 in [0, 1], which positions count; ``None``: all.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    text: Conditioning
    pictures: tuple[int, ...]
    seen_noise: Tensor | None = None
    weights: Tensor | None = None
    mask: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """What a run shows at each step.

    Attributes:
        seed: of the run.
        batch: samples in a micro-batch.
        grad_accum: micro-batches in a step.
        caption_dropout: share of the samples with the unconditional text.
        num_timesteps: length of the noise schedule.
        noise: how timesteps and noise are drawn.
    """

    seed: int
    batch: int
    grad_accum: int = 1
    caption_dropout: float = 0.0
    num_timesteps: int = 1000
    noise: NoisePlan = PLAIN_NOISE

    def samples(self, micro: int) -> range:
        """Positions in the step's whole batch: two half batches are the halves of the full one."""
        return range(micro * self.batch, (micro + 1) * self.batch)

    def place_at(self, step: int, sample: int, epoch_length: int) -> int:
        """Which place of the epoch is shown: each epoch is a permutation of its own, and epochs run across steps."""
        return _place(self.seed, self._shown_before(step, sample), epoch_length)

    def is_of_class(self, step: int, sample: int) -> bool:
        """Whether the sample is a class picture where there are any: every second one of the run is."""
        return self._shown_before(step, sample) % 2 == 1

    def paired_place_at(self, step: int, sample: int, epoch_length: int) -> int:
        """As :meth:`place_at` where pictures and class pictures take turns, each with epochs of their own."""
        kind = "class" if self.is_of_class(step, sample) else "instance"
        return _place(derive(self.seed, kind), self._shown_before(step, sample) // 2, epoch_length)

    def _shown_before(self, step: int, sample: int) -> int:
        return step * self.batch * self.grad_accum + sample


def _place(seed: int, shown_before: int, epoch_length: int) -> int:
    epoch, position = divmod(shown_before, epoch_length)
    return int(order_for_epoch(seed, epoch, epoch_length)[position])


@dataclass(frozen=True)
class _Sample:
    """One sample before its noise: where it comes from, and the number that keeps its randomness apart."""

    number: int
    source: TrainingData
    picture: int
    weight: float

    def caption(self, plan: BatchPlan, step: int) -> str | None:
        dropped = chance_for(plan.seed, step, self.number, purpose="caption") < plan.caption_dropout
        return None if dropped else self.source.captions[self.picture]

    def latent(self, plan: BatchPlan, step: int) -> Tensor:
        """(C, h, w) float32, drawn from the cached mean and standard deviation of a view of the picture."""
        cache = self.source.latents
        view = int(chance_for(plan.seed, step, self.number, purpose="flip") * cache.num_views)
        noise = noise_for(plan.seed, step, self.number, cache.latent_shape, purpose="latent")
        return cache.means[view, self.picture] + cache.stds[view, self.picture] * noise


def draw_batch(plan: BatchPlan, data: TrainingData, step: int, micro: int) -> Batch:
    """Micro-batch ``micro`` of step ``step``, both from 0."""
    samples = [_sample(plan, data, step, number) for number in plan.samples(micro)]
    shape = data.latents.latent_shape
    noise = [plan.noise.noise(plan.seed, step, s.number, shape) for s in samples]
    seen = [plan.noise.seen(plan.seed, step, s.number, n) for s, n in zip(samples, noise, strict=True)]
    return Batch(
        latents=torch.stack([sample.latent(plan, step) for sample in samples]),
        noise=torch.stack(noise),
        timesteps=torch.tensor(
            [
                plan.noise.timestep(plan.seed, step, s.number, num_timesteps=plan.num_timesteps)
                for s in samples
            ]
        ),
        text=data.text.conditioning([sample.caption(plan, step) for sample in samples]),
        pictures=tuple(s.picture + (0 if s.source is data else data.latents.num_pictures) for s in samples),
        seen_noise=torch.stack(seen) if plan.noise.perturbation else None,
        weights=torch.tensor([sample.weight for sample in samples]),
    )


def _sample(plan: BatchPlan, data: TrainingData, step: int, number: int) -> _Sample:
    if data.class_data is None:
        return _Sample(number, data, data.epoch[plan.place_at(step, number, len(data.epoch))], 1.0)
    of_class = plan.is_of_class(step, number)
    source, weight = (data.class_data, data.class_weight) if of_class else (data, 1.0)
    return _Sample(
        number, source, source.epoch[plan.paired_place_at(step, number, len(source.epoch))], weight
    )
