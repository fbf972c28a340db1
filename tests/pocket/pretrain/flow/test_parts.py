"""The VAE that grows from pocket's, and the latents' shift and factor."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from detour.pocket.pretrain import autoencoder
from detour.pocket.pretrain.flow import parts
from detour.pocket.world import HOUSE, held_out_prompts, render
from tests.pocket.pretrain.flow.conftest import POCKET


@pytest.fixture(scope="module")
def shown() -> np.ndarray:
    return np.stack([render(prompted.scene, HOUSE) for prompted in held_out_prompts(2, seed=4)])


@torch.no_grad()
def test_a_vae_grown_from_pockets_begins_with_its_latents_and_pictures(shown: np.ndarray) -> None:
    torch.manual_seed(0)
    old = AutoencoderKL.from_pretrained(POCKET / "vae", torch_dtype=torch.float32)
    new = parts.autoencoder_from_pocket(POCKET).eval()
    pictures = autoencoder.to_model_range(shown)
    before, after = old.encode(pictures).latent_dist, new.encode(pictures).latent_dist
    torch.testing.assert_close(after.mean[:, :4], before.mean, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(after.std[:, :4], before.std, rtol=1e-3, atol=1e-4)
    alone = torch.cat([before.mean, torch.zeros_like(after.mean[:, 4:])], dim=1)
    made, known = new.decode(alone).sample, old.decode(before.mean).sample
    inner = (..., slice(32, -32), slice(32, -32))  # the folded bias differs at the border alone
    assert (made - known)[inner].abs().mean() < 0.01
    assert known.std() > 0.2


@torch.no_grad()
def test_latents_have_unit_variance_after_shift_and_factor(
    shown: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    monkeypatch.setitem(parts.VAE_CONFIG, "block_out_channels", [8, 8, 16, 16])
    vae = parts.new_autoencoder().eval()
    vae.encoder.conv_out.bias[:16] += torch.linspace(-2, 3, 16)
    pictures = autoencoder.to_model_range(shown)
    before = vae.decode(vae.encode(pictures).latent_dist.mean).sample
    means, deviations = autoencoder.latent_statistics(vae, shown)
    parts.equalise(vae, means, deviations)
    after = vae.encode(pictures).latent_dist
    torch.testing.assert_close(vae.decode(after.mean).sample, before, rtol=1e-3, atol=1e-4)
    latents = (after.mean - vae.config.shift_factor) * vae.config.scaling_factor
    spread = after.var.mean() * vae.config.scaling_factor**2
    assert float(latents.mean()) == pytest.approx(0, abs=0.01)
    assert float(latents.square().mean() + spread) == pytest.approx(1, abs=0.01)
    assert abs(vae.config.shift_factor) > 0.1  # a shift that is not there would pass unseen


def test_the_transformer_has_some_five_million_parameters_and_starts_at_zero_velocity() -> None:
    transformer = parts.new_transformer()
    assert 4e6 < sum(parameter.numel() for parameter in transformer.parameters()) < 6e6
    with torch.no_grad():
        velocity = transformer(
            torch.randn(1, 16, 16, 16),
            torch.randn(1, 33, parts.JOINT_WIDTH),
            torch.randn(1, 256),
            torch.tensor([500.0]),
        ).sample
    assert float(velocity.abs().max()) == 0
