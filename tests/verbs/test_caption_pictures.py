"""A BLIP model of the true class in miniature writes captions; its words mean nothing, its path is the real one."""

import json
from pathlib import Path

import pytest
from PIL import Image

from detour.errors import BaseError, DataError
from detour.verbs.datasets.captioning import caption_pictures
from tests.tiny_blip import make_tiny_blip
from tests.verbs.photos import make_photos


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_blip(tmp_path_factory.mktemp("blip"))


def test_pictures_without_a_caption_get_one_and_the_others_keep_theirs(blip: Path, tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", 6)
    for index in (1, 4, 5):
        (photos / f"{index}.txt").unlink()
    result = caption_pictures(photos, model=str(blip), prompt="a picture of", device="cpu")
    assert sorted(result.written) == ["1.png", "4.png", "5.png"]
    assert result.kept == 3
    assert (photos / "0.txt").read_text() == "picture 0\n"
    for name, caption in result.written.items():
        assert (photos / name).with_suffix(".txt").read_text().strip() == caption
        assert caption.startswith("a picture of")
    again = caption_pictures(photos, model=str(blip), device="cpu")
    assert again.written == {}


def test_pictures_of_one_name_get_captions_of_their_own_and_masks_none(blip: Path, tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", 1)
    (photos / "0.txt").unlink()
    picture = Image.open(photos / "0.png").convert("RGB")
    picture.save(photos / "0.jpg")
    picture.save(photos / "0.mask.png")
    result = caption_pictures(photos, model=str(blip), device="cpu")
    assert sorted(result.written) == ["0.jpg", "0.png"]
    assert sorted(path.name for path in photos.glob("*.txt")) == ["0.jpg.txt", "0.png.txt"]


def test_a_model_that_is_no_blip_is_refused(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", 1)
    (photos / "0.txt").unlink()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(BaseError, match="Name a BLIP model"):
        caption_pictures(photos, model=str(tmp_path / "model"), device="cpu")
    with pytest.raises(BaseError, match="no folder here"):
        caption_pictures(photos, model="nothing", device="cpu")


def test_a_folder_without_pictures_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pictures"):
        caption_pictures(tmp_path)
