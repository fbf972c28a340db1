"""The VAE's losses and the standardisation of its latents."""

import numpy as np
import pytest
import torch

from detour.pocket.pretrain import autoencoder, parts


def test_standardising_moves_the_latents_and_leaves_the_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setitem(parts.VAE_CONFIG, "block_out_channels", [8, 8, 16, 16])
    vae = parts.new_autoencoder().eval()
    pictures = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        before = vae.encode(pictures).latent_dist
        made = vae.decode(before.mean).sample
        autoencoder.standardise(vae, [0.5, -1.0, 0.0, 2.0], [2.0, 0.5, 3.0, 1.0])
        after = vae.encode(pictures).latent_dist
        again = vae.decode(after.mean).sample
    scale = torch.tensor([2.0, 0.5, 3.0, 1.0]).view(1, 4, 1, 1)
    shift = torch.tensor([0.5, -1.0, 0.0, 2.0]).view(1, 4, 1, 1)
    torch.testing.assert_close(after.mean * scale + shift, before.mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after.std * scale, before.std, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(again, made, rtol=1e-3, atol=1e-4)


def test_a_perfect_reconstruction_costs_least() -> None:
    true = torch.rand(1, 3, 32, 32) * 2 - 1
    perfect = autoencoder.reconstruction_loss(true, true)
    blurred = torch.nn.functional.avg_pool2d(true, 3, stride=1, padding=1)
    assert perfect < 0.011  # the square root's floor
    assert autoencoder.reconstruction_loss(blurred, true) > perfect
    assert autoencoder.reconstruction_loss(true + 0.1, true) > perfect


def test_whole_frames_are_the_pictures_or_their_mirror_images() -> None:
    pictures = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3)
    drawn = autoencoder.draw_pictures(
        pictures, count=6, crop_px=8, generator=torch.Generator().manual_seed(0)
    )
    known = autoencoder.to_model_range(np.concatenate([pictures, pictures[:, :, ::-1].copy()]))
    for picture in drawn:
        assert any(torch.equal(picture, candidate) for candidate in known)
