import pytest
import torch

from detour.diffusion.objective import Objective, denoising_loss
from detour.diffusion.process import PREDICTED, VariancePreserving, process_of
from detour.diffusion.schedule import alphas_cumprod, snr, velocity
from detour.errors import BaseError

ALPHAS = alphas_cumprod({"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"})
STEPS = torch.tensor([5, 300, 900])


def predicting(kind: str, alphas: torch.Tensor = ALPHAS) -> VariancePreserving:
    return VariancePreserving(predicts=PREDICTED[kind], alphas=alphas)


def test_target_is_noise_velocity_or_latents() -> None:
    latents, noise = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2)
    given = (latents, noise, STEPS)
    assert predicting("epsilon").target(*given) is noise
    assert predicting("sample").target(*given) is latents
    assert torch.equal(predicting("v_prediction").target(*given), velocity(latents, noise, STEPS, ALPHAS))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_clean_latents_come_back_from_a_perfect_prediction(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(3, 4, 2, 2, generator=generator) for _ in range(2))
    process = predicting(kind)
    wanted = process.target(latents, noise, STEPS)
    back = process.clean(wanted, process.mix(latents, noise, STEPS), STEPS)
    assert torch.allclose(back, latents, atol=1e-4)


def test_unknown_prediction_type_is_refused() -> None:
    assert process_of({"prediction_type": "v_prediction"}).predicts == "velocity"
    with pytest.raises(BaseError, match="prediction_type 'flow'"):
        process_of({"prediction_type": "flow"})


def test_min_snr_caps_easy_timesteps_and_leaves_hard_ones() -> None:
    weights = predicting("epsilon").weigh("min_snr", STEPS, gamma=5.0)
    ratio = snr(ALPHAS)[STEPS]
    assert ratio[0] > 5 > ratio[2]
    assert weights[0].item() == pytest.approx(5 / ratio[0].item())
    assert weights[2].item() == 1.0


def test_min_snr_of_velocity_is_that_of_noise_in_another_currency() -> None:
    """Velocity's error is (SNR + 1) / SNR times the noise error, so both weights stand for one weight of x₀."""
    ratio = snr(ALPHAS)[STEPS]
    noise = predicting("epsilon").weigh("min_snr", STEPS, gamma=5.0)
    v = predicting("v_prediction").weigh("min_snr", STEPS, gamma=5.0)
    torch.testing.assert_close(noise * ratio, v * (ratio + 1))


def test_uniform_loss_is_the_mean_squared_error_in_fp32() -> None:
    a, b = torch.randn(4, 4, 8, 8), torch.randn(4, 4, 8, 8)
    ones = predicting("epsilon").weigh("uniform", torch.arange(4), gamma=5.0)
    torch.testing.assert_close(denoising_loss(a, b, ones), torch.nn.functional.mse_loss(a, b))
    assert denoising_loss(a.bfloat16(), b.bfloat16(), ones).dtype == torch.float32


def test_weights_count_per_sample() -> None:
    prediction, wanted = torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2)
    assert denoising_loss(prediction, wanted, torch.tensor([0.0, 4.0])).item() == 2.0


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_min_snr_equals_the_training_script_of_diffusers(kind: str) -> None:
    from diffusers import DDPMScheduler
    from diffusers.training_utils import compute_snr

    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    every = torch.arange(1000)
    ratio = compute_snr(scheduler, every)
    # As examples/text_to_image/train_text_to_image_lora.py writes it.
    expected = torch.stack([ratio, 5.0 * torch.ones_like(every)], dim=1).min(dim=1)[0]
    expected = expected / ratio if kind == "epsilon" else expected / (ratio + 1)
    torch.testing.assert_close(
        predicting(kind).weigh("min_snr", every, gamma=5.0), expected, rtol=1e-4, atol=0
    )  # type: ignore[arg-type]


def test_debiased_is_one_over_the_root_of_the_snr_and_the_same_in_every_currency() -> None:
    ratio = snr(ALPHAS)[STEPS]
    noise = predicting("epsilon").weigh("debiased", STEPS, gamma=5.0)
    torch.testing.assert_close(noise, 1 / ratio.sqrt())
    clean = predicting("sample").weigh("debiased", STEPS, gamma=5.0)
    torch.testing.assert_close(clean, noise * ratio)
    torch.testing.assert_close(
        predicting("v_prediction").weigh("debiased", STEPS, gamma=5.0) * (ratio + 1), clean
    )


def test_weights_are_finite_at_zero_terminal_snr_of_a_velocity_base() -> None:
    alphas = alphas_cumprod({"beta_schedule": "scaled_linear", "rescale_betas_zero_snr": True})
    last = torch.tensor([999])
    for weighting in ("uniform", "min_snr", "debiased"):
        weight = predicting("v_prediction", alphas).weigh(weighting, last, gamma=5.0)  # type: ignore[arg-type]
        assert weight.item() == (1.0 if weighting == "uniform" else 0.0)
    assert predicting("v_prediction", alphas).huber_thresholds("snr", last, c=0.1).item() == pytest.approx(
        0.1
    )


def test_pseudo_huber_is_the_square_near_zero_and_a_line_far_away() -> None:
    ones, c = torch.ones(1), torch.tensor([0.1])

    def at(difference: float) -> float:
        given = torch.full((1, 1, 1, 1), difference)
        return denoising_loss(given, torch.zeros_like(given), ones, thresholds=c).item()

    assert at(1e-3) == pytest.approx(1e-6, rel=1e-2)
    assert at(100.0) == pytest.approx(2 * 0.1 * (100.0 - 0.1), rel=1e-4)
    assert at(0.3) == pytest.approx(2 * 0.1 * ((0.3**2 + 0.1**2) ** 0.5 - 0.1), rel=1e-5)


def test_huber_threshold_falls_from_one_to_c_as_the_noise_grows() -> None:
    assert predicting("epsilon").huber_thresholds("constant", STEPS, c=0.2).tolist() == pytest.approx(
        [0.2] * 3
    )
    clean_to_noise = predicting("epsilon").huber_thresholds("snr", torch.arange(1000), c=0.1)
    assert (clean_to_noise.diff() < 0).all()
    assert 0.1 < clean_to_noise[-1] < 0.12
    assert 0.9 < clean_to_noise[0] < 1.0
    sigma = ((1 - ALPHAS[300]) / ALPHAS[300]) ** 0.5
    assert clean_to_noise[300].item() == pytest.approx(0.9 / (1 + sigma.item()) ** 2 + 0.1, rel=1e-5)


def test_a_masked_position_counts_nothing_and_the_others_as_before() -> None:
    prediction, wanted = torch.randn(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    mask = torch.ones(2, 1, 4, 4)
    ones = torch.ones(2)
    plain = denoising_loss(prediction, wanted, ones)
    assert denoising_loss(prediction, wanted, ones, mask=mask) == plain
    mask[:, :, :2] = 0
    rest = prediction[:, :, 2:].square().sum() / prediction.numel()
    torch.testing.assert_close(denoising_loss(prediction, wanted, ones, mask=mask), rest)
    mask[:, :, :2] = 0.25  # a soft edge counts in proportion
    soft = 0.25 * prediction[:, :, :2].square().sum() / prediction.numel() + rest
    torch.testing.assert_close(denoising_loss(prediction, wanted, ones, mask=mask), soft)


def test_the_objective_multiplies_the_weights_of_samples_and_timesteps() -> None:
    prediction, wanted = torch.randn(3, 1, 2, 2), torch.zeros(3, 1, 2, 2)
    own = torch.tensor([1.0, 0.0, 2.0])
    objective = Objective(weighting="min_snr", distance="huber", huber_schedule="constant", huber_c=0.3)
    found = objective.loss(
        prediction, wanted, process=predicting("epsilon"), times=STEPS, weights=own, mask=None
    )
    expected = denoising_loss(
        prediction,
        wanted,
        own * predicting("epsilon").weigh("min_snr", STEPS, gamma=5.0),
        thresholds=torch.full((3,), 0.3),
    )
    assert found == expected
