"""The invisible mark: found after what copies go through, by its key alone, and hardly to be seen."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from detour.errors import ConfigError
from detour.generation import mark
from detour.generation.mark import FOUND, add_mark, find_mark, fingerprint


def picture(seed: int, side: int = 128) -> np.ndarray:
    """Noise whose spectrum falls as that of photographs does, with a flat square in it; uint8 (H, W, 3)."""
    draw = np.random.default_rng(seed)
    frequency = np.fft.fftfreq(side)
    distance = np.hypot(*np.meshgrid(frequency, frequency))
    distance[0, 0] = 1
    planes = [
        np.fft.ifft2(np.fft.fft2(draw.normal(size=(side, side))) / distance**1.2).real for _ in range(3)
    ]
    found = np.stack(planes, -1)
    found = (found - found.min()) / (found.max() - found.min()) * 255
    found[: side // 4, : side // 4] = 200
    return found.astype(np.uint8)


def as_jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "jpeg", quality=quality)
    return np.asarray(Image.open(buffer))


def resized(pixels: np.ndarray, scale: float) -> np.ndarray:
    size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


@pytest.fixture(scope="module")
def marked() -> np.ndarray:
    return add_mark(picture(1), "key")


def test_the_mark_is_found_by_its_key_alone(marked: np.ndarray) -> None:
    found = find_mark(marked, "key")
    assert found.is_found
    assert found.scale == 1.0
    for pixels, key in ((marked, "another"), (picture(1), "key")):
        report = find_mark(pixels, key)
        assert not report.is_found
        assert report.probability > 1e-3


def test_a_cut_changes_nothing(marked: np.ndarray) -> None:
    assert find_mark(marked[17:, 30:121], "key", any_scale=False).is_found
    assert find_mark(marked[32:96, 32:96], "key", any_scale=False).is_found


@pytest.mark.parametrize("quality", [90, 75, 50])
def test_jpeg_leaves_it(marked: np.ndarray, quality: int) -> None:
    assert find_mark(as_jpeg(marked, quality), "key", any_scale=False).is_found


@pytest.mark.parametrize("scale", [0.6, 0.75, 1.5])
def test_a_resized_copy_is_found_at_its_size(marked: np.ndarray, scale: float) -> None:
    found = find_mark(resized(marked, scale), "key")
    assert found.is_found
    assert found.scale == pytest.approx(scale, abs=0.03)
    assert not find_mark(resized(marked, scale), "key", any_scale=False).is_found


def test_what_a_copy_goes_through_together_leaves_it(marked: np.ndarray) -> None:
    assert find_mark(as_jpeg(resized(marked[9:, :-7], 0.8), 85), "key").is_found


def test_it_is_hardly_to_be_seen(marked: np.ndarray) -> None:
    change = marked.astype(float) - picture(1)
    assert np.abs(change).max() == mark.LEVELS
    assert 10 * math.log10(255**2 / (change**2).mean()) > 42, "PSNR in dB"


def test_scores_of_pictures_without_it_are_normal_as_the_probability_assumes() -> None:
    """Sides of a tile, so that nothing is padded: each of 4,096 shifts gives one score."""
    found = [find_mark(picture(seed, 64), f"key {seed}", any_scale=False).probability for seed in range(60)]
    assert min(found) > FOUND
    assert 0.001 < min(found) < 0.3, "the least of 60 is near to 1 in 60"


def test_any_size_is_marked_and_a_flat_picture_has_no_mark_of_itself() -> None:
    for size in ((70, 100), (200, 65)):
        pixels = picture(3, 256)[-size[0] :, -size[1] :]
        made = add_mark(pixels, "key")
        assert made.shape == pixels.shape
        assert find_mark(made, "key", any_scale=False).is_found
        assert not find_mark(pixels, "key", any_scale=False).is_found
    assert find_mark(np.full((64, 64, 3), 128, np.uint8), "key", any_scale=False).probability == 1


def test_the_same_key_gives_the_same_bytes_and_a_fingerprint_does_not_tell_it() -> None:
    assert np.array_equal(add_mark(picture(2), "key"), add_mark(picture(2), "key"))
    assert "key" not in fingerprint("key")
    assert fingerprint("key") != fingerprint("key ")
    for wrong in ("", "x" * 201):
        with pytest.raises(ConfigError, match="choose 1 to 200"):
            add_mark(picture(2), wrong)
