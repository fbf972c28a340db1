import pytest
import torch

from detour.diffusion.schedule import add_noise, alphas_cumprod, snr, velocity
from detour.errors import BaseError

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_alphas_equal_diffusers(schedule: str, zero_snr: bool) -> None:
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    config = {**SD, "beta_schedule": schedule, "rescale_betas_zero_snr": zero_snr}
    reference = DDIMScheduler.from_config(config).alphas_cumprod
    torch.testing.assert_close(alphas_cumprod(config), reference, rtol=2e-4, atol=1e-6)


def test_sd_schedule_does_not_end_at_zero() -> None:
    alphas = alphas_cumprod(SD)
    assert alphas.shape == (1000,)
    assert alphas.dtype == torch.float32
    assert alphas[-1].item() == pytest.approx(0.00466, abs=1e-4)  # the figure widely taken for zero
    assert bool((alphas.diff() < 0).all())


def test_noised_latents_have_the_variance_of_the_formula() -> None:
    alphas = alphas_cumprod(SD)
    noise = torch.randn(8, 4, 64, 64, generator=torch.Generator().manual_seed(1))
    latents = 0.5 * torch.randn(8, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    timesteps = torch.full((8,), 400)
    alpha = float(alphas[400])
    noisy = add_noise(latents, noise, timesteps, alphas)
    assert float(noisy.var()) == pytest.approx(alpha * 0.25 + 1 - alpha, rel=0.02)


def test_each_sample_takes_its_own_timestep() -> None:
    alphas = alphas_cumprod(SD)
    latents, noise = torch.ones(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    noisy = add_noise(latents, noise, torch.tensor([0, 999]), alphas)
    torch.testing.assert_close(noisy[:, 0, 0, 0], alphas[[0, 999]].sqrt())


def test_velocity_and_noisy_latents_give_the_clean_latents_back() -> None:
    alphas = alphas_cumprod(SD)
    latents, noise = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    timesteps = torch.tensor([10, 500, 990])
    noisy, v = add_noise(latents, noise, timesteps, alphas), velocity(latents, noise, timesteps, alphas)
    root, rest = alphas[timesteps].sqrt().view(-1, 1, 1, 1), (1 - alphas[timesteps]).sqrt().view(-1, 1, 1, 1)
    torch.testing.assert_close(root * noisy - rest * v, latents, rtol=1e-4, atol=1e-5)


def test_snr_is_one_where_signal_and_noise_are_even() -> None:
    assert snr(torch.tensor([0.5])).item() == 1.0


def test_unknown_schedule_is_refused_by_name() -> None:
    with pytest.raises(BaseError, match="'sigmoid' is not known"):
        alphas_cumprod({"beta_schedule": "sigmoid"})
