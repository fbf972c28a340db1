"""Timesteps, weights and attention of the UNet's training."""

import torch
from diffusers import DPMSolverMultistepScheduler, UNet2DConditionModel

from detour.pocket.pretrain import denoiser, parts
from detour.pocket.pretrain.folder import SCHEDULER


def test_every_batch_covers_the_whole_range_of_noise() -> None:
    timesteps = denoiser.spread_timesteps(50, torch.Generator().manual_seed(3)).sort().values
    assert torch.equal(timesteps // 20, torch.arange(50))


def test_weights_limit_the_share_of_almost_clean_steps() -> None:
    alphas = torch.tensor([0.99, 0.5, 0.01])
    weights = denoiser.min_snr_weights(alphas, limit=5.0)
    torch.testing.assert_close(weights, torch.tensor([5 / 99, 1.0, 1.0]))


def test_the_schedule_is_the_one_that_the_base_is_shipped_with() -> None:
    shipped = DPMSolverMultistepScheduler.from_config(SCHEDULER)
    torch.testing.assert_close(denoiser.cumulative_alphas(), shipped.alphas_cumprod, rtol=1e-4, atol=1e-6)


def test_explicit_attention_computes_what_the_library_does() -> None:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**{**parts.UNET_CONFIG, "block_out_channels": [32, 32, 64]}).eval()
    latents, text = torch.randn(2, 4, 16, 16), torch.randn(2, 77, parts.TEXT_WIDTH)
    timesteps = torch.tensor([10, 900])
    with torch.no_grad():
        expected = unet(latents, timesteps, text).sample
        unet.set_attn_processor(denoiser.ExplicitAttention())
        torch.testing.assert_close(unet(latents, timesteps, text).sample, expected, rtol=1e-3, atol=1e-4)
