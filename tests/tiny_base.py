"""A Stable Diffusion 1.x of true classes in miniature: random weights, every part, a second to make.

Every string tokenises (256 byte tokens and the same 256 at the end of a word, no merges), so a prompt costs
one token a character: keep prompts of tests under 75 characters.
"""

import json
from pathlib import Path
from typing import Any

SIZE_PX = 64
LATENT_SIZE = 8
TEXT_WIDTH = 32

SCHEDULER: dict[str, Any] = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.42.1",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
MODEL_INDEX: dict[str, Any] = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def make_tiny_base(
    folder: Path, *, seed: int = 0, heads: int = 1, norm_groups: int = 8, linear_projection: bool = False
) -> Path:
    """Write a random SD 1.x in diffusers folder layout: 64 px pictures, latents 8x8x4, text width 32.

    Args:
        folder: made if missing.
        seed: of all weights; same seed, same bytes.
        heads: attention heads of the UNet (diffusers calls it ``attention_head_dim`` in SD 1.x configs). The
            true SD 1.x has 8, which shapes cannot tell.
        norm_groups: of the UNet and the VAE; 32 in the true SD 1.x.
        linear_projection: ``proj_in`` and ``proj_out`` as SD 2.x has them, which makes it one.

    Returns:
        ``folder``.
    """
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    vocabulary = write_tokenizer(folder / "tokenizer")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=LATENT_SIZE,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=(32, 64),
            layers_per_block=1,
            cross_attention_dim=TEXT_WIDTH,
            attention_head_dim=heads,
            norm_num_groups=norm_groups,
            use_linear_projection=linear_projection,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(norm_groups, norm_groups, norm_groups, 2 * norm_groups),
            layers_per_block=1,
            norm_num_groups=norm_groups,
            sample_size=SIZE_PX,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(vocabulary),
                hidden_size=TEXT_WIDTH,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=1 if heads == 1 else 2,
                max_position_embeddings=77,
                projection_dim=TEXT_WIDTH,
                bos_token_id=vocabulary["<|startoftext|>"],
                eos_token_id=vocabulary["<|endoftext|>"],
                pad_token_id=vocabulary["<|endoftext|>"],
            )
        )
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    text_encoder.save_pretrained(folder / "text_encoder")
    _write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    _write_json(folder / "model_index.json", MODEL_INDEX)
    return folder


def write_tokenizer(folder: Path) -> dict[str, int]:
    """Write a CLIP tokenizer of bytes alone; returns its vocabulary."""
    signs = _byte_signs()
    words = [*signs, *(sign + "</w>" for sign in signs), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    end = "<|endoftext|>"
    special = {"bos_token": "<|startoftext|>", "eos_token": end, "pad_token": end, "unk_token": end}
    _write_json(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    _write_json(folder / "special_tokens_map.json", special)
    _write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, **special},
    )
    return vocabulary


def _byte_signs() -> list[str]:
    """The 256 printable signs that byte-level BPE writes for bytes (GPT-2's table), in the order of
    CLIP's.
    """
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def make_tiny_sdxl(folder: Path, *, seed: int = 0) -> Path:
    """Write a random SDXL in diffusers folder layout: 64 px pictures, two text encoders of width 32."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    vocabulary = write_tokenizer(folder / "tokenizer")
    write_tokenizer(folder / "tokenizer_2")
    text = {
        "vocab_size": len(vocabulary),
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "projection_dim": TEXT_WIDTH,
        "bos_token_id": vocabulary["<|startoftext|>"],
        "eos_token_id": vocabulary["<|endoftext|>"],
        "pad_token_id": vocabulary["<|endoftext|>"],
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=LATENT_SIZE,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(32, 64),
            layers_per_block=1,
            transformer_layers_per_block=[1, 2],
            cross_attention_dim=2 * TEXT_WIDTH,
            attention_head_dim=[1, 2],
            use_linear_projection=True,
            norm_num_groups=8,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=TEXT_WIDTH + 6 * 8,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(8, 8, 8, 16),
            layers_per_block=1,
            norm_num_groups=8,
            sample_size=SIZE_PX,
            scaling_factor=0.13025,
        )
        text_encoder = CLIPTextModel(CLIPTextConfig(**text))
        text_encoder_2 = CLIPTextModelWithProjection(CLIPTextConfig(**text))
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    text_encoder.save_pretrained(folder / "text_encoder")
    text_encoder_2.save_pretrained(folder / "text_encoder_2")
    _write_json(
        folder / "scheduler" / "scheduler_config.json",
        {**SCHEDULER, "_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"},
    )
    index = {
        **MODEL_INDEX,
        "_class_name": "StableDiffusionXLPipeline",
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "force_zeros_for_empty_prompt": True,
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
    }
    _write_json(folder / "model_index.json", index)
    return folder


def make_tiny_sd2(folder: Path, *, seed: int = 0) -> Path:
    """Write a random SD 2.x in diffusers folder layout: linear projections, v prediction, text width 32."""
    import torch
    from diffusers import UNet2DConditionModel

    make_tiny_base(folder, seed=seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed + 1)
        unet = UNet2DConditionModel(
            sample_size=LATENT_SIZE,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=(32, 64),
            layers_per_block=1,
            cross_attention_dim=TEXT_WIDTH,
            attention_head_dim=[1, 2],
            use_linear_projection=True,
            norm_num_groups=8,
        )
    unet.save_pretrained(folder / "unet")
    _write_json(
        folder / "scheduler" / "scheduler_config.json", {**SCHEDULER, "prediction_type": "v_prediction"}
    )
    return folder
