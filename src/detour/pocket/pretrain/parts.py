"""Shapes of the embedded base's parts, and their assembly into a diffusers folder.

The layout is Stable Diffusion 1.x at a fifth of its width: an f8 VAE with four latent channels, a
CLIP text tower whose last hidden states condition the UNet, and a UNet that attends at two resolutions
and in the middle, with ``proj_in`` as a convolution.
"""

from __future__ import annotations

from typing import Any

from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPConfig, CLIPModel

SIZE_PX = 128
LATENT_SIZE = 16
LATENT_CHANNELS = 4
MAX_TOKENS = 77
TEXT_WIDTH = 160

VAE_CONFIG: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [16, 32, 64, 128],
    "layers_per_block": 1,
    "act_fn": "silu",
    "latent_channels": LATENT_CHANNELS,
    "norm_num_groups": 8,
    "sample_size": SIZE_PX,
    "scaling_factor": 1.0,  # the latents are standardised inside the VAE
}

UNET_CONFIG: dict[str, Any] = {
    "sample_size": LATENT_SIZE,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "block_out_channels": [64, 128, 224],
    "layers_per_block": 1,
    "cross_attention_dim": TEXT_WIDTH,
    "attention_head_dim": 2,  # diffusers reads this as the number of heads in SD 1.x configs
    "norm_num_groups": 16,
    "act_fn": "silu",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "center_input_sample": False,
}

SCHEDULE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}


def new_autoencoder() -> AutoencoderKL:
    """A VAE with fresh weights, in training mode, float32."""
    return AutoencoderKL(**VAE_CONFIG)


def new_unet() -> UNet2DConditionModel:
    """A UNet with fresh weights, in training mode, float32."""
    return UNet2DConditionModel(**UNET_CONFIG)


def clip_config(*, vocab_size: int, eos_token_id: int, bos_token_id: int) -> CLIPConfig:
    """Settings of the CLIP pair; the text half is also the base's text encoder.

    Args:
        vocab_size: number of tokens of the tokenizer.
        eos_token_id: its end-of-text id, which is also its padding.
        bos_token_id: its start-of-text id.
    """
    text = {
        "vocab_size": vocab_size,
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 4 * TEXT_WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 5,
        "max_position_embeddings": MAX_TOKENS,
        "projection_dim": 128,
        "hidden_act": "quick_gelu",
        "bos_token_id": bos_token_id,
        "eos_token_id": eos_token_id,
        "pad_token_id": eos_token_id,
    }
    vision = {
        "hidden_size": 192,
        "intermediate_size": 768,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "image_size": SIZE_PX,
        "patch_size": 16,
        "projection_dim": 128,
        "hidden_act": "quick_gelu",
    }
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=128)


def new_clip(*, vocab_size: int, eos_token_id: int, bos_token_id: int) -> CLIPModel:
    """A CLIP pair with fresh weights, in training mode, float32."""
    return CLIPModel(clip_config(vocab_size=vocab_size, eos_token_id=eos_token_id, bos_token_id=bos_token_id))
