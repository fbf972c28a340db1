from pathlib import Path

import numpy as np
import pytest
import torch

from detour.bases import latents as latents_module
from detour.bases.base import open_base
from detour.bases.latents import decode_latents, encode_pictures, pictures_in_pass, to_pixels, to_uint8
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


def test_large_pictures_go_through_the_vae_one_by_one() -> None:
    assert [pictures_in_pass(side, side) for side in (64, 256, 512, 1024)] == [64, 4, 1, 1]


def test_passes_give_what_one_pass_gives(vae: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    whole = encode_pictures(vae, pixels)
    drawn = decode_latents(vae, whole[0])
    largest = []
    encode = vae.encode

    def watched(few: torch.Tensor) -> object:
        largest.append(len(few))
        return encode(few)

    monkeypatch.setattr(vae, "encode", watched)
    monkeypatch.setattr(latents_module, "PIXELS_IN_PASS", 2 * 64 * 64)
    for ours, theirs in zip(encode_pictures(vae, pixels), whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert largest == [2, 2, 1]
    assert np.abs(decode_latents(vae, whole[0]).astype(int) - drawn.astype(int)).max() <= 1
