"""Writes the base's folder in diffusers layout, in half precision."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPModel, CLIPTextModel

from detour.pocket.pretrain.parts import SCHEDULE, SIZE_PX

MODEL_INDEX: dict[str, Any] = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
SCHEDULER: dict[str, Any] = {
    "_class_name": "DPMSolverMultistepScheduler",
    "_diffusers_version": "0.42.1",
    **SCHEDULE,
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
    "solver_type": "midpoint",
    "lower_order_final": True,
    "prediction_type": "epsilon",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
PREPROCESSOR: dict[str, Any] = {
    "image_processor_type": "CLIPImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"shortest_edge": SIZE_PX},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": SIZE_PX, "width": SIZE_PX},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def text_encoder_of(clip: CLIPModel) -> CLIPTextModel:
    """The text tower of the pair as a model of its own (copied weights, evaluation mode)."""
    encoder = CLIPTextModel(clip.config.text_config)
    state = clip.text_model.state_dict()
    encoder.load_state_dict(state)
    return encoder.eval()


def write_json(path: Path, value: dict[str, Any]) -> None:
    """One JSON file, indented, with a final newline; its folder is made if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def write_base(
    folder: Path, *, tokenizer: Path, clip: CLIPModel, vae: AutoencoderKL, unet: UNet2DConditionModel
) -> None:
    """Writes all parts in float16; files that stand in ``folder`` are replaced.

    Args:
        folder: the base's folder, made if missing.
        tokenizer: folder of the tokenizer, copied.
        clip: the pair; its text tower becomes ``text_encoder`` and both become ``judge``.
        vae: with its ``scaling_factor`` set.
        unet: with the averaged weights.
    """
    shutil.copytree(tokenizer, folder / "tokenizer", dirs_exist_ok=True)
    parts = {
        "text_encoder": text_encoder_of(clip),
        "judge": clip,
        "vae": vae,
        "unet": unet,
    }
    write_half(folder, parts, load_as_float32=("text_encoder", "judge"))
    write_json(folder / "judge" / "preprocessor_config.json", PREPROCESSOR)
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    write_json(folder / "model_index.json", MODEL_INDEX)


def write_half(folder: Path, models: Mapping[str, Any], *, load_as_float32: Collection[str]) -> None:
    """Writes each model in float16 to the folder of its name.

    Args:
        folder: made if missing.
        models: diffusers or transformers models; they stay as they are.
        load_as_float32: names of the transformers models, which else load in the dtype of their file.
    """
    for name, model in models.items():
        _half_copy(model).save_pretrained(folder / name)
        for file in (folder / name).glob("*.safetensors"):
            file.chmod(0o644)  # safetensors 0.8 writes for the owner only
        _settle(folder / name / "config.json", load_as_float32=name in load_as_float32)


def _settle(config: Path, *, load_as_float32: bool) -> None:
    """Take the folder that a model was loaded from out of its settings, and ask for float32 where that is wanted.

    transformers 5 loads in the dtype that the config names, diffusers in float32: without this line a
    pipeline loaded without ``torch_dtype`` has a half-precision text encoder before a float32 UNet.
    """
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings.pop("_name_or_path", None)
    for part in (
        (settings, settings.get("text_config"), settings.get("vision_config")) if load_as_float32 else ()
    ):
        if part is not None and (part is settings or "dtype" in part):
            part["dtype"] = "float32"
    write_json(config, settings)


def _half_copy(model: Any) -> Any:
    """The model again in float16, so that the caller's stays as it is."""
    config = model.config
    twin = type(model)(config) if not hasattr(model, "from_config") else type(model).from_config(config)
    twin.load_state_dict(model.state_dict())
    return twin.to(torch.float16).eval()
