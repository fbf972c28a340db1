"""Caches and batches: what is shown is a function of (seed, step, sample)."""

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from detour.bases.text import Conditioning
from detour.diffusion.noise import NoisePlan
from detour.training.batches import BatchPlan, draw_batch, draw_batches
from detour.training.cache import LatentCache, TextCache, TrainingData, cache_latents, cache_text


class FakeVae(torch.nn.Module):
    """Encodes a picture to its own pixels, pooled; knows how many pictures one pass had."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.config = type("Config", (), {"scaling_factor": 0.5, "shift_factor": None})()

    def encode(self, pixels: torch.Tensor) -> object:
        mean = torch.nn.functional.avg_pool2d(pixels, 2)
        distribution = type("Distribution", (), {"mean": mean, "std": torch.full_like(mean, 0.2)})()
        return type("Encoded", (), {"latent_dist": distribution})()


class FakeText:
    def encode(self, prompts: list[str]) -> Conditioning:
        return Conditioning(torch.tensor([[[float(len(p))]] for p in prompts]))

    def unconditional(self, num: int) -> Conditioning:
        return Conditioning(torch.full((num, 1, 1), -1.0))


def data(
    num: int = 6, views: int = 2, std: float = 0.1, epoch: tuple[int, ...] | None = None
) -> TrainingData:
    means = torch.arange(float(views * num)).view(views, num, 1, 1, 1).expand(views, num, 2, 3, 3)
    text = TextCache(
        Conditioning(torch.arange(float(num + 1)).view(-1, 1, 1)), {f"c{i}": i for i in range(num)}
    )
    return TrainingData(
        LatentCache(means, torch.full_like(means, std)),
        text,
        tuple(f"c{i}" for i in range(num)),
        epoch or tuple(range(num)),
    )


def test_each_picture_is_encoded_once_and_once_mirrored() -> None:
    pictures = [np.random.default_rng(i).integers(0, 255, (8, 8, 3), dtype=np.uint8) for i in range(6)]
    seen: list[int] = []
    cache = cache_latents(FakeVae(), iter(pictures), flip=True, on_picture=seen.append)
    assert cache.means.shape == (2, 6, 3, 4, 4)
    assert seen == [4, 6]
    torch.testing.assert_close(cache.means[1], cache.means[0].flip(-1))  # true for this VAE, which only pools
    torch.testing.assert_close(cache.stds, torch.full_like(cache.stds, 0.1))
    assert cache_latents(FakeVae(), pictures, flip=False).num_views == 1


def test_distinct_captions_are_encoded_once_and_the_unconditional_comes_last() -> None:
    cache = cache_text(FakeText(), ["aa", "b", "aa"])  # type: ignore[arg-type]
    assert len(cache.states) == 3
    assert cache.encode(["b", "aa"]).states.flatten().tolist() == [1.0, 2.0]
    assert cache.unconditional(2).states.flatten().tolist() == [-1.0, -1.0]


def test_batches_do_not_depend_on_what_was_drawn_before() -> None:
    plan = BatchPlan(seed=1, batch=4, caption_dropout=0.3)
    straight = [draw_batch(plan, data(), step, 0) for step in range(5)][4]
    torch.manual_seed(77)
    alone = draw_batch(plan, data(), 4, 0)
    assert torch.equal(straight.latents, alone.latents)
    assert torch.equal(straight.noise, alone.noise)
    assert torch.equal(straight.times, alone.times)
    assert torch.equal(straight.text.states, alone.text.states)


def test_two_half_batches_are_the_halves_of_one_full_batch() -> None:
    full = draw_batch(BatchPlan(seed=1, batch=8, caption_dropout=0.3), data(), 3, 0)
    plan = BatchPlan(seed=1, batch=4, grad_accum=2, caption_dropout=0.3)
    halves = [draw_batch(plan, data(), 3, micro) for micro in (0, 1)]
    assert torch.equal(full.latents, torch.cat([h.latents for h in halves]))
    assert torch.equal(full.noise, torch.cat([h.noise for h in halves]))
    assert torch.equal(full.times, torch.cat([h.times for h in halves]))
    assert torch.equal(full.text.states, torch.cat([h.text.states for h in halves]))


def test_every_epoch_shows_each_picture_as_often_as_its_repeats() -> None:
    plan = BatchPlan(seed=0, batch=4, grad_accum=2)
    repeated = data(epoch=(0, 1, 1, 2, 3, 4, 5))
    shown = [
        p for step in range(7) for micro in (0, 1) for p in draw_batch(plan, repeated, step, micro).pictures
    ]
    for epoch in range(8):
        assert Counter(shown[epoch * 7 : epoch * 7 + 7]) == Counter((0, 1, 1, 2, 3, 4, 5))


def test_latent_is_mean_plus_std_times_fresh_noise() -> None:
    plan = BatchPlan(seed=0, batch=6)
    sharp = draw_batch(plan, data(views=1, std=0.0), 0, 0)
    assert sharp.latents[:, 0, 0, 0].tolist() == [float(p) for p in sharp.pictures]
    noisy = draw_batch(plan, data(views=1, std=0.5), 0, 0)
    drawn = (noisy.latents - sharp.latents) / 0.5
    assert 0.7 < float(drawn.std()) < 1.3


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


def test_what_is_drawn_for_a_sample_is_drawn_independently() -> None:
    """Mirroring, a dropped caption, the timestep and each of the noises know nothing of each other."""
    num = 6
    noise = NoisePlan(offset=0.5, perturbation=0.5)
    plan = BatchPlan(seed=0, batch=8, caption_dropout=0.5, noise=noise)
    plain = BatchPlan(seed=0, batch=8)
    drawn: dict[str, list[torch.Tensor]] = {}
    for step in range(120):
        batch = draw_batch(plan, data(num), step, 0)
        sharp = draw_batch(plain, data(num, std=0.0), step, 0).latents
        rows = batch.text.states.flatten()
        assert batch.seen_noise is not None
        pure = draw_batch(plain, data(num), step, 0).noise
        for name, values in {
            "mirrored": sharp[:, 0, 0, 0] >= num,
            "dropped": rows == num,
            "timestep": batch.times,
            "latent": (batch.latents - sharp)[:, 0, 0, 0],
            "noise": pure[:, 0, 0, 0],
            "offset": (batch.noise - pure)[:, 0, 0, 0],
            "perturbation": (batch.seen_noise - batch.noise)[:, 0, 0, 0],
        }.items():
            drawn.setdefault(name, []).append(values.float())
    of_all = {name: torch.cat(values) for name, values in drawn.items()}
    for a, b in itertools.combinations(of_all, 2):
        assert abs(correlation(of_all[a], of_all[b])) < 0.15, (a, b)  # 960 draws: 4.5 standard errors


def test_the_order_of_tags_is_drawn_apart_from_what_is_dropped_and_mirrored() -> None:
    tags = replace(data(std=0.0), shuffled=(("c0", "c1"),) * 6)
    plan = BatchPlan(seed=0, batch=8, caption_dropout=0.3)
    batches = [draw_batch(plan, tags, step, 0) for step in range(120)]
    rows = torch.cat([b.text.states.flatten() for b in batches])
    mirrored = torch.cat([b.latents[:, 0, 0, 0] >= 6 for b in batches])
    kept = rows != 6
    assert float((rows[kept] == 1).float().mean()) == pytest.approx(0.5, abs=0.08)
    assert abs(correlation((rows[kept] == 1).float(), mirrored[kept].float())) < 0.17


def test_caption_dropout_takes_its_share_and_mirrors_half() -> None:
    plan = BatchPlan(seed=0, batch=8, caption_dropout=0.25)
    batches = [draw_batch(plan, data(std=0.0), step, 0) for step in range(60)]
    rows = torch.cat([b.text.states.flatten() for b in batches])
    assert float((rows == 6).float().mean()) == pytest.approx(0.25, abs=0.06)
    kept = [
        (r, p)
        for b in batches
        for r, p in zip(b.text.states.flatten().tolist(), b.pictures, strict=True)
        if r != 6
    ]
    assert all(r == p for r, p in kept)
    views = torch.cat([(b.latents[:, 0, 0, 0] >= 6).float() for b in batches])
    assert float(views.mean()) == pytest.approx(0.5, abs=0.07)


def with_class(num: int = 5, class_num: int = 7) -> TrainingData:
    """Instance latents 0, 1, 2 …; class latents 100, 101, 102 …"""
    of_class = data(num=class_num, views=1, std=0.0)
    assert isinstance(of_class.latents, LatentCache)
    moved = LatentCache(of_class.latents.means + 100, of_class.latents.stds)
    return replace(
        data(num=num, views=1, std=0.0),
        class_data=replace(of_class, latents=moved, captions=("c0",) * class_num, weights=(0.5,) * class_num),
    )


def test_pictures_and_class_pictures_take_turns_each_in_epochs_of_their_own() -> None:
    plan = BatchPlan(seed=0, batch=3)
    batches = [draw_batch(plan, with_class(), step, 0) for step in range(70)]
    latents = torch.cat([b.latents[:, 0, 0, 0] for b in batches]).tolist()
    weights = torch.cat([b.weights for b in batches]).tolist()
    own, of_class = latents[0::2], latents[1::2]
    assert all(Counter(own[i : i + 5]) == Counter(range(5)) for i in range(0, 100, 5))
    assert all(Counter(of_class[i : i + 7]) == Counter(range(100, 107)) for i in range(0, 98, 7))
    assert weights == [1.0, 0.5] * 105
    pictures = [p for b in batches for p in b.pictures]
    assert pictures[0::2] == [int(x) for x in own]
    assert pictures[1::2] == [int(x) - 100 + 5 for x in of_class]


def test_class_pictures_come_in_an_order_of_their_own() -> None:
    """With equally many of both, a shared seed would always pair the same two."""
    plan, num = BatchPlan(seed=0, batch=2), 8
    pairs = [draw_batch(plan, with_class(num, num), step, 0).pictures for step in range(40 * num)]
    same = sum(own == of_class - num for own, of_class in pairs)
    assert same / len(pairs) == pytest.approx(1 / num, abs=0.08)


def test_two_half_batches_with_a_class_are_the_halves_of_one_full_batch() -> None:
    full = draw_batch(BatchPlan(seed=1, batch=6), with_class(), 3, 0)
    halves = [draw_batch(BatchPlan(seed=1, batch=3, grad_accum=2), with_class(), 3, m) for m in (0, 1)]
    assert torch.equal(full.latents, torch.cat([h.latents for h in halves]))
    assert full.weights.tolist() == [1.0, 0.5] * 3
    assert full.pictures == (*halves[0].pictures, *halves[1].pictures)


def test_class_pictures_of_another_size_become_a_batch_of_their_own() -> None:
    wide = LatentCache(torch.zeros(2, 3, 2, 3, 5), torch.zeros(2, 3, 2, 3, 5))
    mixed = replace(data(), class_data=replace(data(3), latents=wide))
    batches = draw_batches(BatchPlan(seed=0, batch=4), mixed, 0, 0)
    assert [tuple(b.latents.shape) for b in batches] == [(2, 2, 3, 3), (2, 2, 3, 5)]
    assert len({int(t) for b in batches for t in b.times}) == 4  # each sample keeps its own number


def test_shuffled_captions_are_drawn_by_step_and_sample_and_dropped_like_others() -> None:
    shuffling = replace(data(), shuffled=(("c0", "c1", "c2"),) + ((),) * 5)
    plan = BatchPlan(seed=0, batch=6, caption_dropout=0.2)
    rows: list[float] = []
    for step in range(150):
        batch = draw_batch(plan, shuffling, step, 0)
        shown = batch.text.states.flatten().tolist()
        assert all(
            row in (picture, 6.0) for row, picture in zip(shown, batch.pictures, strict=True) if picture
        )
        rows += [row for row, picture in zip(shown, batch.pictures, strict=True) if picture == 0]
    assert draw_batch(plan, shuffling, 7, 0).text.states.equal(draw_batch(plan, shuffling, 7, 0).text.states)
    share = {row: count / len(rows) for row, count in Counter(rows).items()}
    assert share == pytest.approx({0.0: 0.27, 1.0: 0.27, 2.0: 0.27, 6.0: 0.2}, abs=0.1)
