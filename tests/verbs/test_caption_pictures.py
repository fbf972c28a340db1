"""A BLIP model of the true class in miniature writes captions; its words mean nothing, its path is the real one."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from detour.errors import BaseError, DataError
from detour.verbs.datasets.captioning import caption_pictures
from tests.verbs.photos import make_photos


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    folder = tmp_path_factory.mktemp("blip")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "house", "of", "picture"]
    (folder / "words.txt").write_text("\n".join(words))
    BertTokenizer(str(folder / "words.txt")).save_pretrained(folder)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": len(words), "encoder_hidden_size": 16, "max_position_embeddings": 64}
    ends = {"bos_token_id": 2, "pad_token_id": 0, "eos_token_id": 3, "sep_token_id": 3}
    torch.manual_seed(0)
    config = BlipConfig(
        text_config=small | text | ends, vision_config=small | {"image_size": 32, "patch_size": 16}
    )
    BlipForConditionalGeneration(config).save_pretrained(folder)
    BlipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


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
