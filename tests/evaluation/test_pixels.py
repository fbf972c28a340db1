import numpy as np
import pytest

from detour.errors import ShapeMismatch
from detour.evaluation import pixels


def noise(count: int, seed: int, side: int = 32) -> pixels.Pictures:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def test_differences_do_not_wrap_around_in_eight_bits() -> None:
    black, white = np.zeros((1, 4, 4, 3), np.uint8), np.full((1, 4, 4, 3), 255, np.uint8)
    assert pixels.mean_abs_diff(black, white) == 255.0
    assert pixels.mean_abs_diff(white, black) == 255.0
    assert pixels.max_abs_diff(black, white) == 255


def test_the_largest_difference_is_of_one_channel_of_one_pixel() -> None:
    first = noise(2, 0) // 2
    second = first.copy()
    second[1, 3, 4, 2] += 7
    assert pixels.max_abs_diff(first, second) == 7
    assert pixels.mean_abs_diff(first, second) == pytest.approx(7 / first.size)


def test_pictures_of_different_shapes_are_refused() -> None:
    with pytest.raises(ShapeMismatch, match="cannot be compared"):
        pixels.mean_abs_diff(noise(2, 0), noise(1, 0))


def test_one_picture_repeated_has_no_diversity_and_different_ones_have() -> None:
    assert pixels.diversity(np.repeat(noise(1, 0), 5, axis=0)) == 0.0
    assert pixels.diversity(noise(5, 0)) > 5.0


def test_diversity_is_the_mean_over_pairs_of_different_prompts_and_every_pair_counts_alike() -> None:
    pictures = np.stack([np.full((16, 16, 3), tone, np.uint8) for tone in (0, 10, 60, 200)])
    assert pixels.diversity(pictures) == pytest.approx((10 + 60 + 200 + 50 + 190 + 140) / 6)
    assert pixels.diversity(pictures, seeds=2) == pytest.approx((60 + 200 + 50 + 190) / 4)
    assert pixels.diversity(pictures, seeds=4) == 0.0


@pytest.mark.parametrize("shape", [(64, 64), (70, 50), (17, 16)])
def test_thumbnails_keep_the_mean_of_a_flat_picture_at_any_size(shape: tuple[int, int]) -> None:
    flat = np.full((2, *shape, 3), 77, np.uint8)
    assert np.allclose(pixels.thumbnails(flat), 77.0)
