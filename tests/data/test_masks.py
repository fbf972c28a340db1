"""Masks: found beside pictures or in their alpha channel, never taken for pictures."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detour.data.folder import read_dataset
from detour.data.masks import mask_beside
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
    assert mask_beside(place / "a.jpg") == place / "a.mask.png"
    assert mask_beside(place / "b.png") == place / "mask" / "b.png"
    assert mask_beside(place / "c.png") is None
    for mask in ("off", "file"):
        data = read_dataset(DataSpec(source=str(place), mask=mask))  # type: ignore[arg-type]
        assert [e.name for e in data.examples] == ["a.jpg", "b.png", "c.png"]
        assert data.problems == ()
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
