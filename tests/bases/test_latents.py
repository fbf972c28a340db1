from pathlib import Path

import numpy as np
import pytest
import torch

from detour.bases.base import open_base
from detour.bases.latents import decode_latents, encode_pictures, to_pixels, to_uint8
from detour.errors import DetourError


@pytest.fixture(scope="module")
def vae(tiny_base: Path) -> torch.nn.Module:
    return open_base(str(tiny_base)).load_vae()


PIXELS = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_latents_are_scaled_and_shifted_as_the_settings_say(vae: torch.nn.Module) -> None:
    raw = vae.encode(PIXELS).latent_dist
    mean, std = encode_pictures(vae, PIXELS)
    assert torch.allclose(mean, raw.mean * 0.18215)
    assert torch.allclose(std, raw.std * 0.18215)
    vae.register_to_config(shift_factor=0.5)
    shifted, same = encode_pictures(vae, PIXELS)
    decoded = decode_latents(vae, shifted)
    vae.register_to_config(shift_factor=None)
    assert torch.allclose(shifted, (raw.mean - 0.5) * 0.18215)
    assert torch.equal(same, std)
    assert np.abs(decoded.astype(int) - decode_latents(vae, mean)).max() <= 1


def test_decoding_undoes_the_scale(vae: torch.nn.Module) -> None:
    mean, _ = encode_pictures(vae, PIXELS)
    expected = to_uint8(vae.decode(mean / 0.18215).sample)
    pictures = decode_latents(vae, mean)
    assert pictures.shape == (2, 64, 64, 3)
    assert np.abs(pictures.astype(int) - expected.astype(int)).max() <= 1


def test_a_picture_that_is_not_finite_is_an_error_and_not_black(vae: torch.nn.Module) -> None:
    with pytest.raises(DetourError, match="not finite"):
        decode_latents(vae, torch.full((1, 4, 8, 8), float("nan")))


def test_every_pixel_value_survives_the_way_to_floats_and_back() -> None:
    pictures = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    pixels = to_pixels(pictures)
    assert (float(pixels.min()), float(pixels.max())) == (-1.0, 1.0)
    assert (to_uint8(pixels) == pictures).all()
