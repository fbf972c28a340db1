import pytest
import torch

from detour.diffusion.objective import denoising_loss, loss_weights, prediction_type, target
from detour.diffusion.schedule import alphas_cumprod, snr, velocity
from detour.errors import BaseError

ALPHAS = alphas_cumprod({"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"})
STEPS = torch.tensor([5, 300, 900])


def test_target_is_noise_velocity_or_latents() -> None:
    latents, noise = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2)
    given = {"latents": latents, "noise": noise, "timesteps": STEPS, "alphas": ALPHAS}
    assert target("epsilon", **given) is noise
    assert target("sample", **given) is latents
    assert torch.equal(target("v_prediction", **given), velocity(latents, noise, STEPS, ALPHAS))


def test_unknown_prediction_type_is_refused() -> None:
    assert prediction_type("v_prediction") == "v_prediction"
    with pytest.raises(BaseError, match="prediction_type 'flow'"):
        prediction_type("flow")


def test_min_snr_caps_easy_timesteps_and_leaves_hard_ones() -> None:
    weights = loss_weights("min_snr", "epsilon", STEPS, ALPHAS, gamma=5.0)
    ratio = snr(ALPHAS)[STEPS]
    assert ratio[0] > 5 > ratio[2]
    assert weights[0].item() == pytest.approx(5 / ratio[0].item())
    assert weights[2].item() == 1.0


def test_min_snr_of_velocity_is_that_of_noise_in_another_currency() -> None:
    """Velocity's error is (SNR + 1) / SNR times the noise error, so both weights stand for one weight of x₀."""
    ratio = snr(ALPHAS)[STEPS]
    noise = loss_weights("min_snr", "epsilon", STEPS, ALPHAS)
    v = loss_weights("min_snr", "v_prediction", STEPS, ALPHAS)
    torch.testing.assert_close(noise * ratio, v * (ratio + 1))


def test_uniform_loss_is_the_mean_squared_error_in_fp32() -> None:
    a, b = torch.randn(4, 4, 8, 8), torch.randn(4, 4, 8, 8)
    ones = loss_weights("uniform", "epsilon", torch.arange(4), ALPHAS)
    torch.testing.assert_close(denoising_loss(a, b, ones), torch.nn.functional.mse_loss(a, b))
    assert denoising_loss(a.bfloat16(), b.bfloat16(), ones).dtype == torch.float32


def test_weights_count_per_sample() -> None:
    prediction, wanted = torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2)
    assert denoising_loss(prediction, wanted, torch.tensor([0.0, 4.0])).item() == 2.0
