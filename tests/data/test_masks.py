"""Masks: found beside pictures or in their alpha channel, never taken for pictures."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detour.data.folder import read_dataset
from detour.data.listing import Listing
from detour.errors import DataError
from detour.specs import DataSpec
from tests.data.test_folder import picture


def grey(path: Path, value: int, size: tuple[int, int] = (8, 6)) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.new("L", size, value).save(path)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b.png", "c.png"):
        picture(tmp_path / name, "x")
    grey(tmp_path / "a.mask.png", 255)
    grey(tmp_path / "mask" / "b.png", 128)
    return tmp_path


def test_masks_are_found_in_both_places_and_are_no_pictures(place: Path) -> None:
    listing = Listing.of(place)
    found = [listing.mask_of(place / name) for name in ("a.jpg", "b.png", "c.png")]
    assert found == [place / "a.mask.png", place / "mask" / "b.png", None]
    for mask in ("off", "file"):
        data = read_dataset(DataSpec(source=str(place), mask=mask))  # type: ignore[arg-type]
        assert [e.name for e in data.examples] == ["a.jpg", "b.png", "c.png"]
        assert data.findings == ()
    masks = [e.open_mask(alpha=False) for e in data.examples]
    assert [m and m.getpixel((3, 3)) for m in masks] == [255, 128, None]


def test_an_edited_mask_is_another_data_set(place: Path) -> None:
    spec = DataSpec(source=str(place), mask="file")
    before = read_dataset(spec).fingerprint
    grey(place / "a.mask.png", 254)
    assert read_dataset(spec).fingerprint != before


def test_alpha_is_read_upright_and_only_where_there_is_one(tmp_path: Path) -> None:
    pixels = np.zeros((4, 8, 4), dtype=np.uint8)
    pixels[:, :2, 3] = 200
    turned = Image.Exif()
    turned[0x0112] = 3  # upside down
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=turned)
    picture(tmp_path / "b.png", "x")
    data = read_dataset(DataSpec(source=str(tmp_path), caption="x", mask="alpha"))
    alpha, none = (e.open_mask(alpha=True) for e in data.examples)
    assert alpha is not None
    assert np.asarray(alpha)[0].tolist() == [0] * 6 + [200] * 2
    assert none is None


def test_a_mask_of_another_size_is_refused(place: Path) -> None:
    grey(place / "a.mask.png", 255, (4, 4))
    data = read_dataset(DataSpec(source=str(place), mask="file"))
    with pytest.raises(DataError, match=r"a.mask.png: the mask is 4 × 4 px, its picture 8 × 6"):
        data.examples[0].open_mask(alpha=False)


SHAPE = np.zeros((6, 8), dtype=np.uint8)
SHAPE[:, 2:6] = 255
SHAPE[0, 2:6] = 100


def drawn(colour: int, mode: str) -> Image.Image:
    """A shape of one colour on a transparent background."""
    alpha = Image.fromarray(SHAPE)
    image = Image.new(mode[:-1], alpha.size, colour if mode == "LA" else (colour,) * 3)
    image.putalpha(alpha)
    return image


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("colour", [0, 90, 255], ids=["black", "grey", "white"])
@pytest.mark.parametrize("kind", ["png", "webp"])
def test_a_mask_drawn_in_one_colour_on_nothing_is_its_shape(
    place: Path, mode: str, colour: int, kind: str
) -> None:
    (place / "a.mask.png").unlink()
    drawn(colour, mode).save(place / f"a.mask.{kind}", **({"lossless": True} if kind == "webp" else {}))
    mask = read_dataset(DataSpec(source=str(place), mask="file")).examples[0].open_mask(alpha=False)
    assert np.array_equal(np.asarray(mask), SHAPE)


def test_black_and_white_on_nothing_counts_where_it_is_white_and_shows(place: Path) -> None:
    pixels = np.zeros((6, 8, 4), dtype=np.uint8)
    pixels[:, 4:, :3] = 255
    pixels[:3, :, 3] = 255
    pixels[3, :, 3] = 128
    Image.fromarray(pixels).save(place / "a.mask.png")
    mask = read_dataset(DataSpec(source=str(place), mask="file")).examples[0].open_mask(alpha=False)
    expected = np.zeros((6, 8), dtype=np.uint8)
    expected[:3, 4:], expected[3, 4:] = 255, 128
    assert np.array_equal(np.asarray(mask), expected)


def test_an_opaque_alpha_channel_leaves_a_mask_as_it_is(place: Path) -> None:
    grey = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8) * 5)
    with_alpha = grey.copy()
    with_alpha.putalpha(255)
    with_alpha.save(place / "a.mask.png")
    mask = read_dataset(DataSpec(source=str(place), mask="file")).examples[0].open_mask(alpha=False)
    assert np.array_equal(np.asarray(mask), np.asarray(grey))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_the_alpha_channel_of_a_picture_is_read_with_grey_and_with_colours(tmp_path: Path, mode: str) -> None:
    drawn(90, mode).save(tmp_path / "a.png")
    data = read_dataset(DataSpec(source=str(tmp_path), caption="x", mask="alpha"))
    assert np.array_equal(np.asarray(data.examples[0].open_mask(alpha=True)), SHAPE)
