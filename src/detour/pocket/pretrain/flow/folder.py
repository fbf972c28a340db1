"""Writes pocket-flow's folder in diffusers layout, in half precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, SD3Transformer2DModel
from transformers import CLIPModel, CLIPTextModelWithProjection, CLIPTokenizer

from detour.bases.parts import ZERO_STATES
from detour.pocket.pretrain.flow.parts import SCHEDULE, TEXT_TOKENS
from detour.pocket.pretrain.folder import PREPROCESSOR, write_half, write_json

MODEL_INDEX: dict[str, Any] = {
    "_class_name": "StableDiffusion3Pipeline",
    "_diffusers_version": "0.42.1",
    ZERO_STATES: 0,  # it was trained with none and with 256, and none is faster
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "text_encoder_3": [None, None],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "tokenizer_3": [None, None],
    "transformer": ["diffusers", "SD3Transformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
SCHEDULER: dict[str, Any] = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "_diffusers_version": "0.42.1",
    **SCHEDULE,
}


def second_tokenizer(tokenizer: CLIPTokenizer) -> CLIPTokenizer:
    """Copy the tokenizer with "!" as its padding, as CLIP-G's has in Stable Diffusion XL and 3."""
    second: CLIPTokenizer = CLIPTokenizer.from_pretrained(tokenizer.name_or_path, pad_token="!")
    return second


def write_base(
    folder: Path,
    *,
    tokenizer: CLIPTokenizer,
    towers: tuple[CLIPTextModelWithProjection, CLIPTextModelWithProjection],
    clip: CLIPModel,
    vae: AutoencoderKL,
    transformer: SD3Transformer2DModel,
) -> None:
    """Writes all parts in float16; files that stand in ``folder`` are replaced.

    Args:
        folder: the base's folder, made if missing.
        tokenizer: of both towers; written with a length of ``TEXT_TOKENS``, which the pipeline reads.
        towers: the two text encoders.
        clip: the pair that judges; it is written to ``judge``.
        vae: with its shift and scaling factor set.
        transformer: with the averaged weights.
    """
    for name, spelled in (("tokenizer", tokenizer), ("tokenizer_2", second_tokenizer(tokenizer))):
        spelled.model_max_length = TEXT_TOKENS
        spelled.save_pretrained(folder / name)
    models = {"text_encoder": towers[0], "text_encoder_2": towers[1], "judge": clip}
    write_half(folder, models | {"vae": vae, "transformer": transformer}, load_as_float32=tuple(models))
    write_json(folder / "judge" / "preprocessor_config.json", PREPROCESSOR)
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    write_json(folder / "model_index.json", MODEL_INDEX)
