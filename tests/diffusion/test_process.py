"""Properties of processes, against closed forms and diffusers' own schedulers."""

import itertools
import math

import pytest
import torch

from detour.diffusion.process import (
    SD_PROCESS,
    Parametrisation,
    Process,
    RectifiedFlow,
    TimeLaw,
    VariancePreserving,
    process_of,
    shifted,
)
from detour.errors import ConfigError

FLOW = RectifiedFlow(shift=3.0)
VELOCITY = process_of({"beta_schedule": "scaled_linear", "prediction_type": "v_prediction"})
TIMES = {"vp": torch.tensor([5, 300, 900]), "flow": torch.tensor([0.1, 0.5, 0.9])}
FORMS: tuple[Parametrisation, ...] = ("clean", "noise", "velocity", "score")


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 4, 2, 2, generator=generator), torch.randn(3, 4, 2, 2, generator=generator)


def truths(process: Process, times: torch.Tensor) -> dict[Parametrisation, torch.Tensor]:
    latents, noise = pair()
    if isinstance(process, VariancePreserving):
        alpha = process.alphas[times].view(-1, 1, 1, 1)
        a, b = alpha.sqrt(), (1 - alpha).sqrt()
        velocity = a * noise - b * latents
    else:
        b = times.view(-1, 1, 1, 1)
        velocity = noise - latents
    return {"clean": latents, "noise": noise, "velocity": velocity, "score": -noise / b}


@pytest.mark.parametrize(("process", "times"), [(SD_PROCESS, TIMES["vp"]), (FLOW, TIMES["flow"])])
@pytest.mark.parametrize(("source", "wanted"), itertools.permutations(FORMS, 2))
def test_every_form_of_a_prediction_turns_into_every_other(
    process: Process, times: torch.Tensor, source: Parametrisation, wanted: Parametrisation
) -> None:
    latents, noise = pair()
    known = truths(process, times)
    noisy = process.mix(latents, noise, times)
    found = process.convert(known[source], noisy, times, source=source, wanted=wanted)
    torch.testing.assert_close(found, known[wanted], rtol=2e-3, atol=2e-3)


def test_flow_latents_are_those_of_diffusers() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)
    latents, noise = pair()
    at = theirs.timesteps[[100, 500, 900]]
    sigmas = at / 1000
    expected = theirs.scale_noise(latents, at, noise)
    torch.testing.assert_close(FLOW.mix(latents, noise, sigmas), expected, rtol=0, atol=1e-6)
    assert torch.equal(FLOW.model_time(FLOW.times([0.75])), torch.tensor([750.0]))


def test_one_euler_step_of_diffusers_with_the_target_arrives_at_the_clean_latents() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    theirs = FlowMatchEulerDiscreteScheduler(shift=1.0)
    theirs.set_timesteps(1)
    latents, noise = pair()
    target = FLOW.target(latents, noise, torch.ones(3))
    found = theirs.step(target, theirs.timesteps[0], noise, return_dict=False)[0]
    torch.testing.assert_close(found, latents, rtol=0, atol=1e-5)


def test_shift_is_that_of_diffusers_and_keeps_the_ends() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0).sigmas
    ours = torch.tensor([shifted(step / 1000, 3.0) for step in range(1000, 0, -1)])
    torch.testing.assert_close(ours, theirs.float().cpu(), rtol=0, atol=1e-6)
    assert shifted(0.0, 3.0) == 0
    assert shifted(1.0, 3.0) == 1


@pytest.mark.parametrize("process", [SD_PROCESS, RectifiedFlow()])
def test_a_positive_mean_draws_noisier_times_in_every_process(process: Process) -> None:
    def mean_snr(mean: float) -> float:
        law = TimeLaw(name="logit_normal", mean=mean)
        times = process.times([process.draw_time(law, 0, step, 0) for step in range(400)])
        return float(process.snr(times).log().mean())

    assert mean_snr(1.0) < mean_snr(0.0) < mean_snr(-1.0)


def test_logit_normal_flow_times_follow_the_closed_form() -> None:
    from statistics import NormalDist

    law = TimeLaw(name="logit_normal", mean=0.5, std=0.8)
    drawn = torch.tensor([RectifiedFlow().draw_time(law, 0, step, 0) for step in range(6000)])
    for below in (0.1, 0.3, 0.5, 0.7, 0.9):
        share = NormalDist(0.5, 0.8).cdf(math.log(below / (1 - below)))
        assert float((drawn < below).float().mean()) == pytest.approx(share, abs=3 * 0.5 / 6000**0.5)


def test_mode_law_is_that_of_diffusers() -> None:
    from diffusers.training_utils import compute_density_for_timestep_sampling

    theirs = compute_density_for_timestep_sampling(
        "mode", 6000, mode_scale=1.29, generator=torch.Generator().manual_seed(0)
    )
    law = TimeLaw(name="mode", scale=1.29)
    drawn = torch.tensor([RectifiedFlow().draw_time(law, 0, step, 0) for step in range(6000)])
    for q in (0.05, 0.25, 0.5, 0.75, 0.95):
        assert float(drawn.quantile(q)) == pytest.approx(float(theirs.quantile(q)), abs=0.02)


def test_times_stay_within_the_schedule_and_are_spread_over_it() -> None:
    for process in (SD_PROCESS, FLOW):
        spread = process.spread(8)
        assert spread == sorted(spread)
        assert all(process.check(time) == time for time in spread)
        shares = [process.signal_share(time) for time in spread]
        assert shares == sorted(shares, reverse=True)
    with pytest.raises(ConfigError, match=r"timestep 1000 is outside the schedule. Choose 0 to 999"):
        SD_PROCESS.check(1000)
    with pytest.raises(ConfigError, match="Choose 0 to 1"):
        FLOW.check(1.5)


def test_snr_of_a_flow_is_one_in_the_middle() -> None:
    snr = FLOW.snr(torch.tensor([0.25, 0.5, 0.75]))
    torch.testing.assert_close(snr, torch.tensor([9.0, 1.0, 1 / 9]))


@pytest.mark.parametrize("weighting", ["min_snr", "debiased"])
def test_a_flow_refuses_the_weights_of_noise_prediction_and_says_why(weighting: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"'{weighting}' is not for a rectified flow \(.*Choose uniform or"
    ):
        FLOW.weigh(weighting, TIMES["flow"], gamma=5.0)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="'cosmap' is not for a variance-preserving process"):
        SD_PROCESS.weigh("cosmap", TIMES["vp"], gamma=5.0)


@pytest.mark.parametrize(
    ("ours", "theirs"), [("sigma_sqrt", "sigma_sqrt"), ("cosmap", "cosmap"), ("uniform", "none")]
)
def test_weights_of_a_flow_are_those_of_diffusers(ours: str, theirs: str) -> None:
    from diffusers.training_utils import compute_loss_weighting_for_sd3

    sigmas = TIMES["flow"]
    expected = compute_loss_weighting_for_sd3(theirs, sigmas)
    torch.testing.assert_close(FLOW.weigh(ours, sigmas, gamma=5.0), expected)  # type: ignore[arg-type]


def test_huber_thresholds_fall_towards_noise_in_a_flow_too() -> None:
    found = FLOW.huber_thresholds("snr", torch.tensor([0.0, 0.5, 1.0]), c=0.1)
    torch.testing.assert_close(found, torch.tensor([1.0, 0.325, 0.1]))


def test_velocity_process_predicts_velocity() -> None:
    latents, noise = pair()
    times = TIMES["vp"]
    target = VELOCITY.target(latents, noise, times)
    torch.testing.assert_close(target, truths(VELOCITY, times)["velocity"])
    torch.testing.assert_close(VELOCITY.clean(target, VELOCITY.mix(latents, noise, times), times), latents)
