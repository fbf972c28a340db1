import math
from statistics import NormalDist

import pytest
import torch

from detour.diffusion.noise import NoisePlan
from detour.diffusion.process import SD_PROCESS, TimeLaw
from detour.diffusion.randomness import noise_for, timestep_for

SHAPE = (4, 8, 8)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (1.0, 0.5)])
def test_logit_normal_timesteps_follow_the_closed_form(mean: float, std: float) -> None:
    plan = NoisePlan(law=TimeLaw(name="logit_normal", mean=mean, std=std))
    drawn = torch.tensor([plan.time(SD_PROCESS, 0, step, 0) for step in range(6000)])
    for below in (100, 300, 500, 700, 900):
        share = NormalDist(mean, std).cdf(math.log(below / (1000 - below)))
        # Three standard errors of 6000 draws.
        assert float((drawn < below).float().mean()) == pytest.approx(share, abs=3 * 0.5 / 6000**0.5)


def test_logit_normal_timesteps_follow_the_law_of_diffusers() -> None:
    from diffusers.training_utils import compute_density_for_timestep_sampling

    reference = compute_density_for_timestep_sampling(
        "logit_normal",
        6000,
        logit_mean=0.5,
        logit_std=0.8,
        generator=torch.Generator().manual_seed(0),
    )
    plan = NoisePlan(law=TimeLaw(name="logit_normal", mean=0.5, std=0.8))
    drawn = torch.tensor([float(plan.time(SD_PROCESS, 0, step, 1)) for step in range(6000)])
    for q in (0.05, 0.25, 0.5, 0.75, 0.95):
        assert float((drawn / 1000).quantile(q)) == pytest.approx(float(reference.quantile(q)), abs=0.02)


def test_extreme_laws_stay_within_the_schedule() -> None:
    for mean in (-10.0, 10.0):
        plan = NoisePlan(law=TimeLaw(name="logit_normal", mean=mean, std=10.0))
        drawn = [plan.time(SD_PROCESS, 0, step, 0) for step in range(500)]
        assert min(drawn) >= 0
        assert max(drawn) <= 999


def test_plain_plan_draws_what_runs_have_always_drawn() -> None:
    plan = NoisePlan()
    assert plan.time(SD_PROCESS, 3, 5, 7) == timestep_for(3, 5, 7)
    noise = plan.noise(3, 5, 7, SHAPE)
    assert torch.equal(noise, noise_for(3, 5, 7, SHAPE))
    assert plan.seen(3, 5, 7, noise) is noise


def test_offset_moves_each_channel_by_a_constant_of_the_right_size() -> None:
    plan = NoisePlan(offset=0.1)
    moved = torch.stack([plan.noise(0, step, 0, SHAPE) - noise_for(0, step, 0, SHAPE) for step in range(500)])
    torch.testing.assert_close(moved, moved[..., :1, :1].expand_as(moved), rtol=0, atol=1e-6)
    assert float(moved[..., 0, 0].std()) == pytest.approx(0.1, abs=0.01)
    assert torch.equal(plan.noise(0, 3, 1, SHAPE), plan.noise(0, 3, 1, SHAPE))
    assert not torch.equal(plan.noise(0, 3, 1, SHAPE), plan.noise(0, 3, 2, SHAPE))


def test_perturbation_is_seen_and_not_asked_for() -> None:
    plan = NoisePlan(perturbation=0.1)
    noise = plan.noise(0, 1, 2, (4, 64, 64))
    assert torch.equal(noise, noise_for(0, 1, 2, (4, 64, 64)))
    further = plan.seen(0, 1, 2, noise) - noise
    assert float(further.std()) == pytest.approx(0.1, rel=0.05)
    assert abs(float((further * noise).mean())) < 0.005  # independent of the noise
