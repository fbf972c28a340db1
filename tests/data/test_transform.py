import numpy as np
import pytest
from PIL import Image

from detour.data.transform import to_square


@pytest.mark.parametrize("size", [(64, 64), (128, 64), (64, 200), (50, 33)])
def test_square_has_the_size_asked_for(size: tuple[int, int]) -> None:
    square = to_square(Image.new("RGB", size, (1, 2, 3)), 32)
    assert square.shape == (32, 32, 3)
    assert square.dtype == np.uint8
    assert (square == np.array([1, 2, 3])).all()


def test_square_picture_of_the_right_size_is_unchanged() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert np.array_equal(to_square(Image.fromarray(pixels), 16), pixels)


def test_the_middle_of_a_wide_picture_is_kept() -> None:
    pixels = np.zeros((10, 30, 3), dtype=np.uint8)
    pixels[:, 10:20] = 255
    assert (to_square(Image.fromarray(pixels), 10) == 255).all()


def test_result_can_be_written_to() -> None:
    to_square(Image.new("RGB", (8, 8)), 8)[0, 0] = 1
