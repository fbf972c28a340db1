"""What is shown at a step, as a pure function of (seed, step, sample): nothing to save, nothing to resume."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detour.bases.text import Conditioning
from detour.diffusion.noise import PLAIN_NOISE, NoisePlan
from detour.diffusion.process import SD_PROCESS, Process
from detour.diffusion.randomness import chance_for, derive, noise_for, order_for_epoch
from detour.training.cache import TrainingData
from detour.training.order import Shown, ShowOrder


@dataclass(frozen=True)
class Batch:
    """One micro-batch on the CPU, of one size.

    Attributes:
        latents: (N, C, h, w) float32, drawn from the cached mean and standard deviation.
        noise: as ``latents``, what the network is asked for.
        times: (N,) in the units of the run's process: integer timesteps, or noise levels of a flow.
        text: states of N captions, or the unconditional ones where the caption was dropped.
        pictures: (N,) which picture each sample is; class pictures are counted on after the others.
        seen_noise: what is put on the latents where it is not ``noise`` (input perturbation).
        weights: (N,) float32, loss weight of each sample; ``None``: one each.
        mask: (N, 1, h, w) float32 of mean 1 a sample, how much each position counts; ``None``: all alike.
        size_ids: (N, 6) float32, original height and width, top and left of the crop, height and width: what SDXL is
            told. ``None``: squares of the run's own size.
        shown: (N, width) float32, embedding of each sample's own picture, zero where it was dropped; ``None`` where no
            IP-Adapter is trained.
    """

    latents: Tensor
    noise: Tensor
    times: Tensor
    text: Conditioning
    pictures: tuple[int, ...]
    seen_noise: Tensor | None = None
    weights: Tensor | None = None
    mask: Tensor | None = None
    size_ids: Tensor | None = None
    shown: Tensor | None = None

    def __len__(self) -> int:
        return len(self.pictures)


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """What a run shows at each step.

    Attributes:
        seed: of the run.
        batch: samples in a micro-batch.
        grad_accum: micro-batches in a step.
        caption_dropout: share of the samples with the unconditional text.
        process: relates clean latents, noise and time; times are drawn from it.
        noise: how times and noise are drawn.
        slice, slices: with several processes, which of equal slices of every micro-batch is drawn.
    """

    seed: int
    batch: int
    grad_accum: int = 1
    caption_dropout: float = 0.0
    process: Process = SD_PROCESS
    noise: NoisePlan = PLAIN_NOISE
    slice: int = 0
    slices: int = 1

    @property
    def per_step(self) -> int:
        """Samples in one step, all micro-batches and slices together."""
        return self.batch * self.grad_accum

    def samples(self, micro: int) -> range:
        """Positions in the step's whole batch: two half batches are the halves of the full one."""
        size = self.batch // self.slices
        start = micro * self.batch + self.slice * size
        return range(start, start + size)


@dataclass(frozen=True)
class _Sample:
    """One sample before its noise: where it comes from, and the number that keeps its randomness apart."""

    number: int
    source: TrainingData
    picture: int
    view: int
    frame: int

    def embedding(self, plan: BatchPlan, step: int) -> Tensor:
        """The picture's embedding, or zero where it is dropped.

        One number decides over text and picture: of the caption dropout, half is the text alone and half both, and as
        much as one half is the picture alone; at 0.1 that is 5 % each (arXiv:2308.06721, section 4.1).
        """
        assert self.source.shown is not None, "an IP-Adapter is trained on embeddings"
        embedding = self.source.shown[self.picture]
        drop, number = plan.caption_dropout, chance_for(plan.seed, step, self.number, purpose="caption")
        return torch.zeros_like(embedding) if 0.5 * drop <= number < 1.5 * drop else embedding

    def caption(self, plan: BatchPlan, step: int) -> str | None:
        if chance_for(plan.seed, step, self.number, purpose="caption") < plan.caption_dropout:
            return None
        orders = self.source.shuffled[self.picture] if self.source.shuffled else ()
        if not orders:
            return self.source.captions[self.picture]
        return orders[int(chance_for(plan.seed, step, self.number, purpose="tags") * len(orders))]


def stack_latents(latents: Sequence[Tensor]) -> Tensor:
    """(C, h, w) each → (N, C, h, w), channels last.

    One memory layout wherever they come from: convolutions round by layout, and a cache would show in the last bits.
    """
    return torch.stack(list(latents)).contiguous(memory_format=torch.channels_last)


def stack_masks(masks: Sequence[Tensor | None], shape: Sequence[int]) -> Tensor | None:
    """(1, h, w) each → (N, 1, h, w); where there is none every position counts alike, and with none at all ``None``."""
    if all(mask is None for mask in masks):
        return None
    return torch.stack([torch.ones(1, *shape[-2:]) if mask is None else mask for mask in masks])


def stack_size_ids(ids: Sequence[tuple[int, ...] | None]) -> Tensor | None:
    """Six numbers each → (N, 6) float32; ``None`` where they are not known."""
    known = [of_one for of_one in ids if of_one is not None]
    return torch.tensor(known, dtype=torch.float32) if len(known) == len(ids) else None


def captions_shown(plan: BatchPlan, data: TrainingData, step: int, micro: int) -> list[str]:
    """Captions of a micro-batch, before any is dropped."""
    samples = [_sample(plan, data, step, number) for number in plan.samples(micro)]
    return [sample.source.captions[sample.picture] for sample in samples]


def draw_batch(plan: BatchPlan, data: TrainingData, step: int, micro: int) -> Batch:
    """Micro-batch ``micro`` of step ``step``, both from 0, of data whose samples are all of one size."""
    (batch,) = draw_batches(plan, data, step, micro)
    return batch


def draw_batches(plan: BatchPlan, data: TrainingData, step: int, micro: int) -> tuple[Batch, ...]:
    """Micro-batch ``micro`` of step ``step`` as batches of one size each.

    There are two where class pictures are of another size than the others of this step, else one.
    """
    samples = [_sample(plan, data, step, number) for number in plan.samples(micro)]
    by_size: dict[tuple[int, ...], list[_Sample]] = {}
    for sample in samples:
        by_size.setdefault(sample.source.latents.shape_of(sample.picture), []).append(sample)
    return tuple(_batch(plan, data, group, step) for group in by_size.values())


def _sample(plan: BatchPlan, data: TrainingData, step: int, number: int) -> _Sample:
    flip = chance_for(plan.seed, step, number, purpose="flip")
    source, shown = data, ShowOrder(plan.seed, data.buckets, plan.per_step).at(step, number)
    if data.class_data is not None:
        source, shown = _paired(plan, data, data.class_data, step, number)
    picture = source.epoch[shown.place]
    frame = _frame(plan.seed, source, picture, shown)
    return _Sample(number, source, picture, int(flip * source.latents.num_views), frame)


def _frame(seed: int, source: TrainingData, picture: int, shown: Shown) -> int:
    """Which crop is shown: all of a picture's crops in turns, before one comes again."""
    num = source.num_frames(picture)
    if num == 1:
        return 0
    repeat = shown.place - source.epoch.index(picture)
    turn, position = divmod(shown.epoch * source.repeats[picture] + repeat, num)
    return int(order_for_epoch(derive(seed, "crop", picture), turn, num)[position])


def _paired(
    plan: BatchPlan, data: TrainingData, class_data: TrainingData, step: int, number: int
) -> tuple[TrainingData, Shown]:
    """Every second sample of the run is a class picture; each kind has epochs of its own."""
    turn, of_class = divmod(step * plan.per_step + number, 2)
    kind, source = ("class", class_data) if of_class else ("instance", data)
    # Where a step has an odd number of samples its halves are not equal: sample after sample then.
    per_step = plan.per_step // 2 if plan.per_step % 2 == 0 else 1
    order = ShowOrder(derive(plan.seed, kind), source.buckets, per_step)
    return source, order.at(*divmod(turn, per_step))


def _batch(plan: BatchPlan, data: TrainingData, samples: Sequence[_Sample], step: int) -> Batch:
    moments = [s.source.latents.moments(s.picture, s.view, s.frame) for s in samples]
    means, stds = (stack_latents(parts) for parts in zip(*moments, strict=True))
    shape = means.shape[1:]
    drawn = torch.stack([noise_for(plan.seed, step, s.number, shape, purpose="latent") for s in samples])
    noise = [plan.noise.noise(plan.seed, step, s.number, shape) for s in samples]
    seen = [plan.noise.seen(plan.seed, step, s.number, n) for s, n in zip(samples, noise, strict=True)]
    times = [plan.noise.time(plan.process, plan.seed, step, s.number) for s in samples]
    return Batch(
        latents=means + stds * drawn,
        noise=torch.stack(noise),
        times=plan.process.times(times),
        text=data.text.conditioning([sample.caption(plan, step) for sample in samples]),
        pictures=tuple(s.picture + (0 if s.source is data else data.latents.num_pictures) for s in samples),
        seen_noise=torch.stack(seen) if plan.noise.perturbation else None,
        weights=torch.tensor([s.source.weight_of(s.picture) for s in samples]),
        mask=stack_masks([s.source.mask_of(s.picture, s.view, s.frame) for s in samples], shape),
        size_ids=stack_size_ids([s.source.size_ids_of(s.picture, s.view, s.frame) for s in samples]),
        shown=None if data.shown is None else torch.stack([s.embedding(plan, step) for s in samples]),
    )
