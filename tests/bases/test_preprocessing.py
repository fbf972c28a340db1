import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from detour.bases.preprocessing import Preprocessing
from detour.errors import BaseError

NEW: dict[str, Any] = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
OLD: dict[str, Any] = {"size": 32, "crop_size": 32, "feature_extractor_type": "CLIPFeatureExtractor"}
SQUEEZED: dict[str, Any] = {"size": {"height": 32, "width": 28}, "do_center_crop": False}
WIDE_CROP: dict[str, Any] = {
    "size": {"shortest_edge": 40},
    "crop_size": {"height": 24, "width": 32},
    "resample": 2,
}
UNUSUAL: dict[str, Any] = {
    **NEW,
    "image_mean": [0.1, 0.2, 0.3],
    "image_std": [0.9, 0.8, 0.7],
    "rescale_factor": 1 / 128,
}


def written(folder: Path, values: dict[str, Any], name: str = "preprocessor_config.json") -> Path:
    (folder / name).write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize("values", [NEW, OLD, SQUEEZED, WIDE_CROP, UNUSUAL, {}], ids=str)
@pytest.mark.parametrize("size", [(50, 77), (77, 50), (32, 32), (20, 31), (331, 500)], ids=str)
def test_it_does_what_transformers_own_processor_does(
    tmp_path: Path, values: dict[str, Any], size: tuple[int, int]
) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    theirs = CLIPImageProcessorPil.from_pretrained(written(tmp_path, values))
    expected = theirs(images=list(pictures), return_tensors="pt")["pixel_values"]
    ours = Preprocessing.load(tmp_path)(pictures)
    assert ours.dtype == torch.float32
    assert ours.shape == expected.shape
    assert torch.allclose(ours, expected, atol=1e-5)


def test_the_file_that_holds_all_processors_of_a_model_is_read(tmp_path: Path) -> None:
    alone = Preprocessing.load(written(tmp_path, WIDE_CROP))
    (tmp_path / "both").mkdir()
    both = written(
        tmp_path / "both", {"image_processor": WIDE_CROP, "processor_class": "C"}, "processor_config.json"
    )
    assert Preprocessing.load(both) == alone


@pytest.mark.parametrize(
    "values", [{"do_resize": False}, {"size": 16, "crop_size": 32}, {"size": {"longest_edge": 3}}], ids=str
)
def test_what_is_not_followed_is_refused_and_not_passed_over(tmp_path: Path, values: dict[str, Any]) -> None:
    with pytest.raises(BaseError, match="preprocessing"):
        Preprocessing.load(written(tmp_path, values))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BaseError, match=r"preprocessor_config\.json"):
        Preprocessing.load(tmp_path)
