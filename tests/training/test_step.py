import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from detour.adapters.attach import Attached
from detour.bases.base import Base, open_base
from detour.bases.denoiser import Denoiser
from detour.bases.text import Conditioning
from detour.diffusion.objective import Objective
from detour.diffusion.process import SD_PROCESS, RectifiedFlow, shifted
from detour.training.assembly import attach_trainable, choose_targets, load_denoiser, make_loss
from detour.training.batches import BatchPlan, draw_batch, draw_batches
from detour.training.cache import LatentCache, TextCache, TrainingData
from detour.training.resolving import resolve
from detour.training.step import TrainingLoss, batch_loss
from detour.training.validation import MAX_PASSES, fixed_validation
from tests.tiny_flow import make_tiny_sd3
from tests.verbs.photos import quick_spec


@pytest.fixture
def base(tiny_base: Path) -> Base:
    return open_base(str(tiny_base))


def random_data(num: int = 4, *, size: int = 8, width: int = 32) -> TrainingData:
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(1, num, 4, size, size, generator=generator)
    states = Conditioning(torch.randn(num + 1, 77, width, generator=generator))
    text = TextCache(states, {f"c{i}": i for i in range(num)})
    return TrainingData(
        LatentCache(means, torch.full_like(means, 0.1)),
        text,
        tuple(f"c{i}" for i in range(num)),
        tuple(range(num)),
    )


def assembled(base: Base, **flags: object) -> tuple[Denoiser, Attached, TrainingLoss]:
    spec = resolve(quick_spec(base.name, Path("x"), **flags), base, ["a"], name="x", device="cpu").spec
    denoiser = load_denoiser(base, spec)
    attached = attach_trainable(denoiser, choose_targets(denoiser.network, base, spec).layers, spec)
    for _, up in attached.factors.values():
        torch.nn.init.normal_(up, std=0.05, generator=torch.Generator().manual_seed(1))
    size = base.native_size_px // base.latent_factor
    data = random_data(size=size, width=base.cross_attention_width)
    return denoiser, attached, make_loss(denoiser, data, spec)


class Recording(nn.Module):
    """A UNet that answers zero, with the one part of an adapter that draws: it keeps the mask of every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.lora_dropout = nn.ModuleDict({"default": nn.Dropout(0.5)})
        self.masks: list[torch.Tensor] = []
        self.eval()

    def forward(self, noisy: torch.Tensor, *_args: object, **_kwargs: object) -> tuple[torch.Tensor]:
        self.masks.append(self.lora_dropout["default"](torch.ones(64)) > 0)
        return (torch.zeros_like(noisy),)


def zero_denoiser(unet: nn.Module) -> Denoiser:
    return Denoiser(
        network=unet,
        part="unet",
        kind="UNet2DConditionModel",
        process=SD_PROCESS,
        device="cpu",
        dtype=torch.float32,
        autocast=True,
    )


def test_each_pass_has_a_dropout_mask_of_its_own_and_the_same_one_when_it_is_made_again() -> None:
    """(step, micro-batch, process): sixteen masks of 64 inputs, each near half of them, no two alike."""
    unet = Recording()

    def masks() -> list[torch.Tensor]:
        unet.masks.clear()
        for part in (0, 1):
            plan = BatchPlan(seed=0, batch=4, grad_accum=2, slice=part, slices=2)
            loss_fn = TrainingLoss(zero_denoiser(unet), plan, random_data(), dropout=True)
            for step, micro in itertools.product(range(4), (0, 1)):
                torch.rand(3)
                loss_fn(step, micro)
        return list(unet.masks)

    first = masks()
    assert len({tuple(mask.tolist()) for mask in first}) == len(first) == 16
    assert all(16 < int(mask.sum()) < 48 for mask in first)
    assert all(torch.equal(a, b) for a, b in zip(first, masks(), strict=True))


@pytest.mark.parametrize("batch", [3, 5])
def test_samples_of_two_sizes_count_alike(batch: int) -> None:
    """Every second sample is a class picture of another size; of an odd number, the two parts are not equal."""
    of_class = random_data(5, size=16)
    mixed = replace(random_data(), class_data=replace(of_class, captions=("c0",) * 5))
    loss_fn = TrainingLoss(zero_denoiser(Recording()), BatchPlan(seed=0, batch=batch), mixed)
    for step in range(4):
        parts = draw_batches(loss_fn.plan, mixed, step, 0)
        assert sorted(map(len, parts)) == [batch // 2, batch - batch // 2]
        each = torch.cat([part.noise.square().flatten(1).mean(1) for part in parts])
        torch.testing.assert_close(
            loss_fn(step, 0), each.mean()
        )  # the answer is zero, so the error is the noise


def gradients(attached: Attached, loss_fn: TrainingLoss) -> torch.Tensor:
    for parameter in attached.parameters():
        parameter.grad = None
    loss_fn(0, 0).backward()
    return torch.cat([p.grad.flatten() for p in attached.parameters() if p.grad is not None])


def test_loss_is_a_function_of_the_step_alone(base: Base) -> None:
    _, _, loss_fn = assembled(base, adapter__dropout=0.3)
    first = loss_fn(5, 1).item()
    torch.manual_seed(1)
    loss_fn(0, 0)
    before = torch.get_rng_state()
    assert loss_fn(5, 1).item() == first
    assert torch.equal(before, torch.get_rng_state())
    assert loss_fn(6, 1).item() != first


def test_dropout_acts_in_training_and_not_in_validation(base: Base) -> None:
    denoiser, _, dropping = assembled(base, adapter__dropout=0.5)
    _, _, plain = assembled(base, adapter__dropout=0.0)
    assert dropping(0, 0).item() != plain(0, 0).item()
    fixed = fixed_validation(random_data(), seed=0, batch=2, num_timesteps=2, process=SD_PROCESS)
    assert fixed.loss(denoiser) == fixed.loss(plain.denoiser)


def test_validation_moves_with_the_weights_and_with_nothing_else(base: Base) -> None:
    denoiser, attached, _ = assembled(base)
    fixed = fixed_validation(random_data(), seed=0, batch=2, num_timesteps=4, process=SD_PROCESS)
    first = fixed.loss(denoiser)
    torch.rand(3)
    assert fixed.loss(denoiser) == first
    attached.set_weight(0.0)
    assert fixed.loss(denoiser) != first


def test_validation_covers_the_schedule_and_stays_small() -> None:
    fixed = fixed_validation(random_data(40), seed=0, batch=8, num_timesteps=8, process=SD_PROCESS)
    times = torch.cat([batch.times for batch in fixed.batches])
    assert sorted(set(times.tolist())) == [62, 187, 312, 437, 562, 687, 812, 937]
    assert len(times) == MAX_PASSES
    pictures = {p for batch in fixed.batches for p in batch.pictures}
    assert len(pictures) == 8
    assert max(pictures) >= 35  # spread over all of them


def test_weighting_of_the_settings_reaches_the_loss(base: Base) -> None:
    _, _, loss_fn = assembled(base, train__loss__weighting="min_snr", train__batch=1)
    uniform = replace(loss_fn, objective=Objective())
    early = next(s for s in range(99) if draw_batch(loss_fn.plan, loss_fn.data, s, 0).times[0] < 100)
    late = next(s for s in range(99) if draw_batch(loss_fn.plan, loss_fn.data, s, 0).times[0] > 500)
    assert loss_fn(early, 0).item() < 0.9 * uniform(early, 0).item()
    assert loss_fn(late, 0).item() == pytest.approx(uniform(late, 0).item())


def test_bf16_base_trains_fp32_adapters_towards_the_same_gradient(base: Base) -> None:
    _, exact, loss_fn = assembled(base)
    denoiser, rounded, bf16_loss_fn = assembled(base, base__dtype="bf16")
    assert next(denoiser.network.parameters()).dtype == torch.bfloat16
    assert all(p.dtype == torch.float32 for p in rounded.parameters())
    assert bf16_loss_fn(0, 0).dtype == torch.float32
    a, b = gradients(exact, loss_fn), gradients(rounded, bf16_loss_fn)
    assert float(torch.cosine_similarity(a, b, dim=0)) > 0.99


def test_a_sample_counts_by_its_weight(base: Base) -> None:
    denoiser, _, loss_fn = assembled(base, train__batch=2)
    batch = draw_batch(loss_fn.plan, loss_fn.data, 0, 0)
    first, second = (
        batch_loss(denoiser, replace(batch, weights=torch.tensor(one))).item()
        for one in ([1.0, 0.0], [0.0, 1.0])
    )
    weighed = batch_loss(denoiser, replace(batch, weights=torch.tensor([1.0, 0.25]))).item()
    assert first != pytest.approx(second)
    assert weighed == pytest.approx(first + 0.25 * second)


def test_perturbed_noise_is_on_the_latents_and_the_plain_noise_is_the_target(base: Base) -> None:
    denoiser, _, loss_fn = assembled(base, train__loss__input_perturbation=0.5)
    batch = draw_batch(loss_fn.plan, loss_fn.data, 2, 0)
    assert batch.seen_noise is not None
    with torch.no_grad():
        noisy = denoiser.process.mix(batch.latents, batch.seen_noise, batch.times)
        predicted = denoiser.predict(noisy, batch.times, batch.text)
        assert torch.equal(loss_fn(2, 0), (predicted - batch.noise).square().flatten(1).mean(1).mean())


def test_huber_of_the_settings_reaches_the_loss(base: Base) -> None:
    _, _, straight = assembled(base, train__loss__distance="huber", train__loss__huber_c=1e-3)
    _, _, square = assembled(base)
    _, _, near = assembled(
        base, train__loss__distance="huber", train__loss__huber_c=1e3, train__loss__huber_schedule="constant"
    )
    assert straight(0, 0).item() < 0.9 * square(0, 0).item()
    assert near(0, 0).item() == pytest.approx(square(0, 0).item(), rel=1e-2)


def test_weights_and_mask_of_a_batch_reach_the_loss(base: Base) -> None:
    denoiser, _, loss_fn = assembled(base)
    batch = draw_batch(loss_fn.plan, loss_fn.data, 0, 0)
    first = replace(batch, weights=torch.tensor([2.0, 0.0]))
    masked = replace(batch, mask=torch.zeros(2, 1, 8, 8))
    with torch.no_grad():
        assert batch_loss(denoiser, masked).item() == 0.0
        assert batch_loss(denoiser, first).item() != batch_loss(denoiser, batch).item()


@pytest.mark.parametrize(("law", "weighting"), [("logit_normal", "uniform"), ("mode", "cosmap")])
def test_a_flow_is_shown_the_times_of_the_runs_law_and_shift(
    tmp_path: Path, law: str, weighting: str
) -> None:
    flow = open_base(str(make_tiny_sd3(tmp_path / "sd3", t5=False)))
    flags = {"train.loss.timesteps": law, "train.loss.weighting": weighting, "adapter.targets": "attn"}
    times, losses = {}, {}
    for shift in (1.0, 2.5):
        denoiser, _, loss = assembled(flow, **flags, **{"train.loss.shift": shift})
        assert isinstance(denoiser.process, RectifiedFlow)
        data = random_data(width=flow.cross_attention_width)
        text = Conditioning(torch.randn(5, flow.text_length, flow.cross_attention_width), torch.randn(5, 16))
        data = replace(data, text=TextCache(text, {f"c{i}": i for i in range(4)}))
        drawn = [draw_batch(loss.plan, data, step, 0) for step in range(40)]
        times[shift] = torch.cat([batch.times for batch in drawn])
        mean = (times[shift] > shifted(0.5, shift)).float().mean()
        assert 0.3 < mean < 0.7
        losses[shift] = float(batch_loss(denoiser, drawn[0], loss.objective).detach())
    expected = torch.tensor([shifted(float(time), 2.5) for time in times[1.0]])
    torch.testing.assert_close(times[2.5], expected, rtol=0, atol=1e-6)
    assert times[1.0].std() > 0.1
    assert losses[1.0] != losses[2.5]
