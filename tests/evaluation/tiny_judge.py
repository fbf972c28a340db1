"""A judge of true classes with random weights."""

import json
from pathlib import Path

SIDE_PX = 32
WIDTH = 8


def make_tiny_judge(
    folder: Path,
    *,
    vocab_size: int,
    width: int = WIDTH,
    patch_px: int = 8,
    preprocessing: dict[str, object] | None = None,
) -> Path:
    """Write a random CLIP pair for 32 px pictures, without a tokenizer: the base's own beside it is used."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    text = {
        "vocab_size": vocab_size,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "eos_token_id": vocab_size - 1,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": SIDE_PX,
        "patch_size": patch_px,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=width))
    model.save_pretrained(folder)
    side = {"height": SIDE_PX, "width": SIDE_PX}
    settings = preprocessing or {"size": {"shortest_edge": SIDE_PX}, "crop_size": side}
    settings = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, **settings}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder
