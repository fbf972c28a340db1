"""The folder that the package carries."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from transformers import CLIPModel, CLIPTextModel

import detour.pocket
from detour.pocket.pretrain import parts

WEIGHTS = Path(detour.pocket.__file__).parent / "weights"
MOST_BYTES = 40 * 10**6


def test_the_folder_is_at_most_40_mb() -> None:
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()) <= MOST_BYTES


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "judge"])
def test_every_weight_is_finite_and_in_half_precision(part: str) -> None:
    (file,) = (WEIGHTS / part).glob("*.safetensors")
    with safe_open(file, framework="pt") as weights:
        for name in weights.keys():  # noqa: SIM118
            tensor = weights.get_tensor(name)
            if tensor.is_floating_point():
                assert tensor.dtype == torch.float16, name
                assert bool(tensor.isfinite().all()), name


def test_the_text_encoder_is_the_judges_text_tower() -> None:
    encoder = CLIPTextModel.from_pretrained(WEIGHTS / "text_encoder").state_dict()
    tower = CLIPModel.from_pretrained(WEIGHTS / "judge").text_model.state_dict()
    assert encoder.keys() == tower.keys()
    assert all(torch.equal(encoder[name], tower[name]) for name in encoder)


def test_the_shapes_are_those_of_the_script_that_makes_them() -> None:
    config = UNet2DConditionModel.load_config(WEIGHTS / "unet")
    for key, value in parts.UNET_CONFIG.items():
        assert config[key] == value, key


def test_the_figures_were_measured_and_the_card_says_them() -> None:
    measured = json.loads((WEIGHTS / "measured.json").read_text())
    card = (WEIGHTS / "README.md").read_text()
    assert measured["recommended_guidance"] > 1
    for slot in ("object", "colour", "place"):
        assert f"{100 * measured['judge_on_generated'][slot]:.1f} %" in card
