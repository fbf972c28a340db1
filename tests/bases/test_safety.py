import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from detour.bases.base import open_base
from detour.errors import BaseError
from detour.specs.generation import GenerateSpec, PictureSpec
from detour.verbs.draw.pictures import generate_pictures


def with_checker(folder: Path, to: Path, threshold: float) -> Path:
    """A copy of the base with a tiny checker that flags what is more similar than ``threshold``."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig

    copy = Path(shutil.copytree(folder, to / "checked"))
    vision = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "image_size": 32,
        "patch_size": 16,
    }
    text = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1}
    checker = StableDiffusionSafetyChecker(
        CLIPConfig(vision_config=vision, text_config=text, projection_dim=768)
    )
    checker.concept_embeds_weights.data.fill_(threshold)
    checker.special_care_embeds_weights.data.fill_(2.0)
    checker.save_pretrained(copy / "safety_checker")
    return copy


def draw(base: Path, out: Path) -> tuple[object, np.ndarray]:
    from PIL import Image

    spec = GenerateSpec(prompts=("a red house",), base=str(base), picture=PictureSpec(steps=1), device="cpu")
    result = generate_pictures(spec, out=out)
    with Image.open(result.files[0].path) as image:
        return result, np.asarray(image)


@pytest.mark.parametrize(("threshold", "refused"), [(-2.0, True), (2.0, False)])
def test_the_bases_own_checker_decides(
    tiny_base: Path, tmp_path: Path, threshold: float, refused: bool
) -> None:
    result, picture = draw(with_checker(tiny_base, tmp_path, threshold), tmp_path / "out")
    assert result.safety == "checked"
    assert result.files[0].metadata.safety == "checked"
    assert result.files[0].metadata.safety_flagged is refused
    assert (picture.max() == 0) == refused
    assert any("refused 1" in note for note in result.notes) == refused


def test_pictures_are_prepared_as_clips_own_processor_prepares_them() -> None:
    from transformers import CLIPImageProcessorPil

    from detour.bases.safety import _prepared

    picture = np.random.default_rng(0).integers(0, 256, (96, 64, 3), dtype=np.uint8)
    theirs = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32)(picture, return_tensors="pt")
    assert torch.allclose(_prepared(picture, 32), theirs.pixel_values[0], atol=1e-5)


def test_a_checker_that_cannot_be_loaded_is_not_left_out_in_silence(tiny_base: Path, tmp_path: Path) -> None:
    folder = with_checker(tiny_base, tmp_path, 2.0)
    weights = next((folder / "safety_checker").glob("*.safetensors"))
    weights.write_bytes(b"nothing")
    with pytest.raises(BaseError, match="safety_checker: cannot be loaded"):
        open_base(str(folder)).load_safety_checker()


def test_bases_without_a_checker_have_none(tiny_base: Path) -> None:
    assert json.loads((tiny_base / "model_index.json").read_text())["safety_checker"] == [None, None]
    assert open_base(str(tiny_base)).load_safety_checker() is None
