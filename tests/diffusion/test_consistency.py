"""Latent consistency distillation in closed form, against the samplers of diffusers."""

import itertools
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from detour.diffusion.consistency import consistent_answer, guided_solver_step
from detour.diffusion.process import Process, RectifiedFlow, process_of

BETAS: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SCALE = 3.5


def of(prediction_type: str) -> Process:
    return process_of({**BETAS, "prediction_type": prediction_type})


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("num", [50, 20, 7])
def test_the_solver_runs_from_the_noisiest_time_to_the_clean_end_without_a_gap(num: int) -> None:
    for process, last in ((of("epsilon"), 1000 // num * num - 1), (RectifiedFlow(shift=3.0), 1.0)):
        ways = process.solver_times(num)
        assert len(ways) == num
        assert ways[0][1] == 0
        assert ways[-1][0] == last
        assert all(before[0] == after[1] for before, after in itertools.pairwise(ways))


def test_the_steps_of_a_flow_end_where_its_sampler_stops() -> None:
    sampler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    sampler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25])
    begins = [begin for begin, _ in RectifiedFlow(shift=3.0).solver_times(4)]
    torch.testing.assert_close(torch.tensor(begins).flip(0), sampler.sigmas[:-1])


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_the_answer_is_that_of_diffusers_lcm_sampler(prediction_type: str) -> None:
    sampler = diffusers.LCMScheduler(**BETAS, prediction_type=prediction_type, clip_sample=False)
    sampler.set_timesteps(4)
    process = of(prediction_type)
    prediction, noisy = normal(1, 4, 8, 8, seed=1), normal(1, 4, 8, 8, seed=2)
    for time in sampler.timesteps:
        theirs = sampler.step(prediction, time, noisy, generator=torch.Generator()).denoised
        torch.testing.assert_close(consistent_answer(process, prediction, noisy, time[None]), theirs)


def test_at_the_clean_end_the_answer_is_what_it_was_asked_about() -> None:
    prediction, noisy = normal(2, 4, 8, 8, seed=1), normal(2, 4, 8, 8, seed=2)
    for process in (of("epsilon"), of("v_prediction"), RectifiedFlow()):
        assert torch.equal(consistent_answer(process, prediction, noisy, process.times([0, 0])), noisy)


def test_on_a_flow_the_answer_is_the_end_of_the_straight_line() -> None:
    prediction, noisy = normal(2, 4, 8, 8, seed=1), normal(2, 4, 8, 8, seed=2)
    times = torch.tensor([0.3, 1.0])
    answer = consistent_answer(RectifiedFlow(), prediction, noisy, times)
    torch.testing.assert_close(answer, noisy - times.view(2, 1, 1, 1) * prediction)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_step_of_the_teacher_is_a_step_of_diffusers_ddim_with_guidance(prediction_type: str) -> None:
    sampler = diffusers.DDIMScheduler(
        **BETAS, prediction_type=prediction_type, clip_sample=False, set_alpha_to_one=False
    )
    process = of(prediction_type)
    with_text, without, noisy = (normal(1, 4, 8, 8, seed=seed) for seed in (1, 2, 3))
    for begin, end in process.solver_times(20):
        # DDIM steps by the distance of its timesteps; below timestep 0 it takes that of timestep 0.
        sampler.num_inference_steps = 1000 // (int(begin) - int(end)) if end else 1
        guided = without + SCALE * (with_text - without)
        theirs = sampler.step(guided, int(begin), noisy, eta=0.0).prev_sample
        mine = guided_solver_step(
            process, with_text, without, noisy, process.times([begin]), process.times([end]), scale=SCALE
        )
        torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=2e-5)


def test_a_step_of_the_teacher_on_a_flow_is_a_step_of_diffusers_euler_with_guidance() -> None:
    sampler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    process = RectifiedFlow(shift=3.0)
    sampler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25])
    with_text, without, noisy = (normal(1, 4, 8, 8, seed=seed) for seed in (1, 2, 3))
    for (begin, end), time in zip(reversed(process.solver_times(4)), sampler.timesteps, strict=True):
        theirs = sampler.step(without + SCALE * (with_text - without), time, noisy).prev_sample
        mine = guided_solver_step(
            process, with_text, without, noisy, process.times([begin]), process.times([end]), scale=SCALE
        )
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def test_guidance_of_the_prediction_is_guidance_of_clean_latents_and_of_noise() -> None:
    """What published scripts guide: both, each with ``w = scale − 1``."""
    for process, time, end in (
        (of("epsilon"), 499, 449),
        (of("v_prediction"), 499, 449),
        (RectifiedFlow(), 0.5, 0.4),
    ):
        with_text, without, noisy = (normal(2, 4, 8, 8, seed=seed) for seed in (1, 2, 3))
        times, ends = process.times([time] * 2), process.times([end] * 2)
        clean, noise = (
            text + (SCALE - 1) * (text - none)
            for text, none in (
                [
                    process.convert(one, noisy, times, source=process.predicts, wanted=wanted)
                    for one in (with_text, without)
                ]
                for wanted in ("clean", "noise")
            )
        )
        mine = guided_solver_step(process, with_text, without, noisy, times, ends, scale=SCALE)
        torch.testing.assert_close(mine, process.mix(clean, noise, ends), atol=1e-4, rtol=1e-4)
