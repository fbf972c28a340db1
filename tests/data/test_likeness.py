"""Copies are found whatever was done to them, and different pictures are not taken for copies."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from detour.data.likeness import NEAR_BITS, mirrored_hash, near_pairs, perceptual_hash
from detour.pocket.world import NAMED_STYLES, training_example
from detour.pocket.world.rendering import render


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    examples = [training_example(0, index) for index in range(120)]
    return [Image.fromarray(render(example.scene, example.style, size_px=64)) for example in examples]


def as_jpeg(image: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=60)
    return Image.open(io.BytesIO(stream.getvalue()))


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "jpeg": as_jpeg,
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
}


@pytest.mark.parametrize("change", COPIES)
def test_copies_are_near(pictures: list[Image.Image], change: str) -> None:
    near = [
        np.count_nonzero(perceptual_hash(image) != perceptual_hash(COPIES[change](image))) <= NEAR_BITS
        for image in pictures
    ]
    assert np.mean(near) >= 0.95


def test_a_mirrored_copy_is_near_to_the_mirrored_hash(pictures: list[Image.Image]) -> None:
    mirrored = pictures[0].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert np.array_equal(perceptual_hash(mirrored), mirrored_hash(pictures[0]))
    assert np.count_nonzero(perceptual_hash(mirrored) != perceptual_hash(pictures[0])) > NEAR_BITS


def test_different_pictures_are_hardly_ever_near(pictures: list[Image.Image]) -> None:
    hashes = np.stack([perceptual_hash(image) for image in pictures])
    assert len(list(near_pairs(hashes))) <= len(pictures) ** 2 / 2 / 3000


def test_pictures_in_one_style_are_no_copies() -> None:
    style = NAMED_STYLES["watercolour"]
    hashes = np.stack(
        [
            perceptual_hash(Image.fromarray(render(training_example(1, index).scene, style, size_px=64)))
            for index in range(60)
        ]
    )
    assert list(near_pairs(hashes)) == []


def test_pairs_come_once_and_between_two_sets_all_of_them() -> None:
    one = np.zeros((3, 63), dtype=bool)
    one[2] = True
    assert list(near_pairs(one)) == [(0, 1, 0)]
    assert list(near_pairs(one, one)) == [(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0), (2, 2, 0)]


def test_the_hash_does_not_see_brightness() -> None:
    grey = Image.fromarray(np.random.default_rng(0).integers(40, 200, (64, 64, 3), dtype=np.uint8))
    lighter = Image.fromarray(np.asarray(grey) + np.uint8(20))
    assert np.array_equal(perceptual_hash(grey), perceptual_hash(lighter))
