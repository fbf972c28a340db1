"""The families' own architectures, block for block and name for name, with narrow layers and random weights.

The settings come from the configs that are shipped; widths, latent size and the number of text layers are cut. Heads
follow each family's rule (SD 1.x eight heads everywhere, SD 2.x and SDXL heads of 64), groups stay 32, and SDXL keeps
its 70 transformer blocks, so what tells the families apart in files is all there.
"""

import json
from pathlib import Path
from typing import Any, Literal

from detour.bases.base import CONFIGS
from tests.tiny_base import MODEL_INDEX, write_tokenizer

Layout = Literal["sd1", "sd2", "sd2-v", "sdxl"]
LAYOUTS: tuple[Layout, ...] = ("sd1", "sd2", "sd2-v", "sdxl")

SIZE_PX = 128
TEXT_WIDTH = 64
_SHIPPED = {"sd1": "sd15", "sd2": "sd21", "sd2-v": "sd21", "sdxl": "sdxl"}
_WIDTHS = {
    "sd1": (32, 64, 64, 64),
    "sd2": (64, 64, 128, 128),
    "sd2-v": (64, 64, 128, 128),
    "sdxl": (64, 128, 64),
}
_TEXT_LAYERS = {"sd1": (3,), "sd2": (3,), "sd2-v": (3,), "sdxl": (12, 3)}  # nothing reads SDXL's layer 11


def make_true_layout(folder: Path, layout: Layout, *, seed: int = 0) -> Path:
    """Write a random base of a family in diffusers folder layout: 128 px, latents 16x16x4; returns ``folder``."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        UNet2DConditionModel.from_config(_unet_config(layout)).save_pretrained(folder / "unet")
        AutoencoderKL.from_config(_vae_config(layout)).save_pretrained(folder / "vae")
        for index, num_layers in enumerate(_TEXT_LAYERS[layout]):
            part = "_2" if index else ""
            vocabulary = write_tokenizer(folder / f"tokenizer{part}")
            config = CLIPTextConfig(
                **_shipped(layout, f"text_encoder{part}")
                | {
                    "vocab_size": len(vocabulary),
                    "hidden_size": TEXT_WIDTH,
                    "intermediate_size": 128,
                    "num_hidden_layers": num_layers,
                    "num_attention_heads": 1,
                    "projection_dim": TEXT_WIDTH,
                    "bos_token_id": vocabulary["<|startoftext|>"],
                    "eos_token_id": vocabulary["<|endoftext|>"],
                    "pad_token_id": vocabulary["<|endoftext|>"],
                }
            )
            model = CLIPTextModelWithProjection(config) if index else CLIPTextModel(config)
            model.save_pretrained(folder / f"text_encoder{part}")
    scheduler = _shipped(layout, "scheduler")
    if layout != "sd2-v":
        scheduler["prediction_type"] = "epsilon"
    _write(folder / "scheduler" / "scheduler_config.json", scheduler)
    index_of_parts = json.loads((CONFIGS / _SHIPPED[layout] / "model_index.json").read_text(encoding="utf-8"))
    _write(folder / "model_index.json", MODEL_INDEX | index_of_parts)
    return folder


def _unet_config(layout: Layout) -> dict[str, Any]:
    widths = _WIDTHS[layout]
    config = _shipped(layout, "unet") | {"block_out_channels": list(widths), "sample_size": SIZE_PX // 8}
    if layout != "sd1":
        config["attention_head_dim"] = [width // 64 for width in widths]
    config["cross_attention_dim"] = TEXT_WIDTH * (2 if layout == "sdxl" else 1)
    if layout == "sdxl":
        sizes = 6 * int(config["addition_time_embed_dim"])
        config["projection_class_embeddings_input_dim"] = TEXT_WIDTH + sizes
    return config


def _vae_config(layout: Layout) -> dict[str, Any]:
    config = _shipped(layout, "vae")
    return config | {"block_out_channels": [32, 32, 32, 64], "sample_size": SIZE_PX}


def _shipped(layout: Layout, part: str) -> dict[str, Any]:
    folder = CONFIGS / _SHIPPED[layout] / part
    [path] = folder.glob("*config.json")
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return config


def _write(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
