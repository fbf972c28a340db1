"""Blur, frames and common marks are found where they were put, and not where there are none."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from detour.data.flaws import blur, border_px, common_mark, look_at, thumbnail
from detour.data.likeness import mirrored_hash, perceptual_hash
from detour.pocket.world import NAMED_STYLES, training_example
from detour.pocket.world.rendering import render


def scenes(style: str, count: int = 24) -> list[Image.Image]:
    return [
        Image.fromarray(render(training_example(3, index).scene, NAMED_STYLES[style], size_px=128))
        for index in range(count)
    ]


def marked(image: Image.Image, opacity: int = 140) -> Image.Image:
    layer = Image.new("RGBA", image.size)
    ImageDraw.Draw(layer).text((78, 108), "PREVIEW", fill=(255, 255, 255, opacity), stroke_width=1)
    return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")


def test_blur_grows_with_the_blur() -> None:
    [image] = scenes("comic", 1)
    values = [blur(image.filter(ImageFilter.GaussianBlur(radius))) for radius in (0, 1, 3, 6)]
    assert values == sorted(values)
    assert values[0] < 0.45
    assert values[-1] > 0.6


def test_a_picture_of_one_colour_and_a_tiny_one_have_no_nan() -> None:
    assert 0 <= blur(Image.new("RGB", (64, 64), (9, 9, 9))) <= 1
    assert 0 <= blur(Image.new("RGB", (4, 4), (9, 9, 9))) <= 1


@pytest.mark.parametrize("style", sorted(NAMED_STYLES))
def test_scenes_of_one_style_have_no_common_mark(style: str) -> None:
    assert common_mark(np.stack([thumbnail(image) for image in scenes(style)])) is None


def test_a_half_transparent_watermark_is_found_where_it_stands() -> None:
    images = scenes("watercolour")
    thumbs = [thumbnail(marked(image) if index % 6 else image) for index, image in enumerate(images)]
    mark = common_mark(np.stack(thumbs))
    assert mark is not None
    assert mark.where == "bottom right"
    assert 0.55 < mark.left < mark.right <= 1
    assert 0.75 < mark.top < mark.bottom <= 1


def test_few_pictures_say_nothing_about_marks() -> None:
    assert common_mark(np.stack([thumbnail(marked(image)) for image in scenes("comic", 7)])) is None


def test_frames_and_bars_are_measured() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    plain = Image.fromarray(noise)
    assert border_px(plain) == 0
    framed = noise.copy()
    framed[:5] = framed[-5:] = 0
    framed[:, :7] = framed[:, -7:] = 0
    assert border_px(Image.fromarray(framed)) == 7
    bars = noise.copy()
    bars[:9] = bars[-9:] = 255
    assert border_px(Image.fromarray(bars)) == 9
    assert border_px(Image.new("RGB", (30, 30), (1, 2, 3))) == 0


def test_sky_above_and_ground_below_are_no_frame() -> None:
    picture = np.zeros((40, 40, 3), dtype=np.uint8)
    picture[:10] = (120, 180, 250)
    picture[10:20] = 7
    picture[20:] = (40, 160, 60)
    assert border_px(Image.fromarray(picture)) == 0


def test_a_large_picture_looks_as_it_does_at_its_full_size() -> None:
    large = scenes("watercolour", 1)[0].resize((3000, 2200), Image.Resampling.BICUBIC)
    facts = look_at(large)
    assert np.count_nonzero(facts.hash != perceptual_hash(large)) <= 1
    assert np.count_nonzero(facts.mirrored != mirrored_hash(large)) <= 1
    assert facts.blur == pytest.approx(blur(large), abs=0.02)
    assert np.abs(facts.thumb - thumbnail(large)).mean() < 0.5
    assert facts.border == border_px(large) / 2200


def test_a_small_picture_is_looked_at_as_it_is() -> None:
    [image] = scenes("comic", 1)
    facts = look_at(image)
    assert np.array_equal(facts.hash, perceptual_hash(image))
    assert np.array_equal(facts.thumb, thumbnail(image))
    assert facts.blur == blur(image)
