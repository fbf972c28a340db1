"""Frames: buckets of equal area, crops, masks, and what SDXL is told."""

import itertools
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detour.data.folder import Example
from detour.data.framing import MAX_ASPECT, Frame, Framing, bucket_sizes, smallest_side
from detour.data.transform import to_square
from detour.errors import DataError


def example(width: int, height: int, sha256: str = "a") -> Example:
    return Example("a.png", Path("a.png"), "x", sha256, size_px=(width, height))


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


SD15 = Framing(resolution_px=512, step_px=64)


def test_buckets_of_512_px() -> None:
    upright = [(256, 1024), (320, 768), (384, 640), (448, 576)]
    sizes = bucket_sizes(512, 64)
    assert set(sizes) >= {*upright, (512, 512), *((h, w) for w, h in upright)}


@settings(max_examples=60, deadline=None)
@given(
    resolution=st.sampled_from([128, 512, 768, 1024]),
    step=st.sampled_from([16, 32, 64]),
)
def test_buckets_lie_on_the_grid_and_keep_the_area(resolution: int, step: int) -> None:
    sizes = bucket_sizes(resolution, step)
    assert (resolution, resolution) in sizes
    for width, height in sizes:
        assert width % step == height % step == 0
        assert resolution**2 - max(width, height) * step < width * height <= resolution**2
        assert max(width, height) <= MAX_ASPECT * min(width, height)
        assert (height, width) in sizes


@settings(max_examples=200, deadline=None)
@given(width=st.integers(256, 3000), height=st.integers(256, 3000), upscale=st.booleans())
def test_nothing_is_enlarged_unless_asked_and_shapes_are_kept(width: int, height: int, upscale: bool) -> None:
    framing = Framing(resolution_px=512, step_px=64, upscale=upscale)
    (frame,) = framing.frames(example(width, height))
    assert all(side % 64 == 0 for side in frame.size_px)
    assert min(frame.size_px) >= smallest_side(512, 64)
    assert frame.size_px[0] * frame.size_px[1] <= 512**2
    if upscale:
        assert frame.size_px in bucket_sizes(512, 64)
    else:
        assert frame.scale <= 1
    aspect, source = Fraction(*frame.size_px), Fraction(width, height)
    if not upscale and max(frame.size_px) > 512:
        assert (aspect > 1) == (source > 1)


@pytest.mark.parametrize(
    ("size", "bucket"),
    [
        ((1024, 1024), (512, 512)),
        ((1200, 800), (640, 384)),
        ((600, 1100), (384, 640)),
        ((450, 450), (448, 448)),
    ],
)
def test_known_pictures_get_known_buckets(size: tuple[int, int], bucket: tuple[int, int]) -> None:
    assert SD15.frames(example(*size))[0].size_px == bucket


def test_a_picture_below_the_smallest_bucket_is_refused_with_the_way_out() -> None:
    with pytest.raises(
        DataError, match=r"a.png: 200 × 900 px, smaller than .* \(256 px a side\).*upscale=true"
    ):
        SD15.frames(example(200, 900))
    assert Framing(resolution_px=512, step_px=64, upscale=True).frames(example(200, 900))


@pytest.mark.parametrize("size", [(70, 64), (64, 64), (300, 31)])
def test_without_buckets_a_frame_is_the_square_that_it_always_was(size: tuple[int, int]) -> None:
    (frame,) = Framing(resolution_px=32).frames(example(*size))
    assert np.array_equal(frame.cut(noise(*size)), to_square(noise(*size), 32))


def test_random_crops_spread_over_what_is_cut_away_and_depend_on_the_picture_alone() -> None:
    framing = Framing(resolution_px=64, crops=4)
    frames = framing.frames(example(200, 100))
    assert [int(frame.centering[0] * 4) for frame in frames] == [0, 1, 2, 3]
    assert frames == framing.frames(example(200, 100))
    assert frames != framing.frames(example(200, 100, sha256="b"))
    assert len(framing.frames(example(200, 100), crops=False)) == 1
    assert len(framing.frames(example(100, 100))) == 1  # nothing is cut away
    cuts = [frame.cut(noise(200, 100)) for frame in frames]
    assert all(not np.array_equal(a, b) for a, b in itertools.pairwise(cuts))


def test_a_mask_is_cut_with_its_picture_and_averaged_over_each_latent_position() -> None:
    pixels = np.zeros((64, 128), dtype=np.uint8)
    pixels[:, 96:] = 255  # a quarter on the right
    pixels[:8, 64:72] = np.tile([0, 255], (8, 4))  # half of one position
    mask = Image.fromarray(pixels)
    whole = Frame((128, 64), (128, 64)).cut_mask(mask, 8)
    assert whole.shape == (8, 16)
    assert whole[0, 8] == pytest.approx(0.5)
    assert whole[3].tolist() == [0.0] * 12 + [1.0] * 4
    right = Frame((128, 64), (64, 64), (1.0, 0.5)).cut_mask(mask, 8)
    assert right[3].tolist() == [0.0] * 4 + [1.0] * 4
    halved = Frame((128, 64), (64, 32)).cut_mask(mask, 8)
    assert halved[3].tolist() == pytest.approx([0.0] * 6 + [1.0] * 2)


def test_sdxl_is_told_height_before_width_and_where_the_crop_began() -> None:
    frame = Frame((400, 100), (100, 100), (0.25, 0.5))
    assert frame.size_ids(mirrored=False) == (100, 400, 0, 75, 100, 100)
    assert frame.size_ids(mirrored=True) == (100, 400, 0, 225, 100, 100)
    assert Frame((64, 128), (32, 32)).size_ids(mirrored=False) == (128, 64, 16, 0, 32, 32)
