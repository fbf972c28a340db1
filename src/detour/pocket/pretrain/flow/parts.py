"""Shapes of pocket-flow's parts.

The layout is Stable Diffusion 3's at some four-hundredth of its size: an f8 VAE with sixteen latent channels and
no convolutions around the latents, two CLIP text towers of different widths, no T5, and an MMDiT of joint
attention blocks with patches of 2 × 2 latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from detour.pocket.pretrain.parts import LATENT_SIZE, SIZE_PX, TEXT_WIDTH

LATENT_CHANNELS = 16
TEXT_TOKENS = 32  # the longest caption of the first 1,500 pictures has 30 tokens with start and end
T5_TOKENS = 256  # zero states that StableDiffusion3Pipeline appends where T5 is absent (its default length)
SECOND_TEXT_WIDTH = 128
PROJECTION = 128
JOINT_WIDTH = 320  # wider than both towers joined (288), as SD 3's 4096 is than 2048: the rest is zero

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
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "scaling_factor": 1.0,  # measured and written when the latents are cached
    "shift_factor": 0.0,
}

TRANSFORMER_CONFIG: dict[str, Any] = {
    "sample_size": LATENT_SIZE,
    "patch_size": 2,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "num_layers": 4,
    "attention_head_dim": 64,
    "num_attention_heads": 3,
    "caption_projection_dim": 192,
    "joint_attention_dim": JOINT_WIDTH,
    "pooled_projection_dim": 2 * PROJECTION,
    "pos_embed_max_size": LATENT_SIZE,
    "qk_norm": "rms_norm",
}

SCHEDULE: dict[str, Any] = {"num_train_timesteps": 1000, "shift": 1.0}


def new_autoencoder() -> AutoencoderKL:
    """A VAE with fresh weights, in training mode, float32."""
    return AutoencoderKL(**VAE_CONFIG)


@torch.no_grad()
def autoencoder_from_pocket(pocket: Path) -> AutoencoderKL:
    """A VAE that starts as pocket's: its four latent channels come first, the others are new.

    The 1×1 convolutions around pocket's latents are multiplied into their neighbours, exactly but for the
    bias of the decoder's at the border. New latent channels begin with small random weights.

    Args:
        pocket: folder of pocket's weights.

    Raises:
        ValueError: the widths of the two VAEs differ.
    """
    old: AutoencoderKL = AutoencoderKL.from_pretrained(pocket / "vae", torch_dtype=torch.float32)
    new = new_autoencoder()
    if list(old.config.block_out_channels) != list(new.config.block_out_channels):
        raise ValueError(
            f"{pocket / 'vae'} has widths {list(old.config.block_out_channels)}, this VAE has "
            f"{list(new.config.block_out_channels)}. Give both the same block_out_channels."
        )
    known, state = old.state_dict(), new.state_dict()
    state.update({name: value for name, value in known.items() if name in state})
    few, many = old.config.latent_channels, new.config.latent_channels
    inner, outer = old.quant_conv, old.post_quant_conv
    encoded = torch.einsum("oi,ihwk->ohwk", inner.weight[:, :, 0, 0], known["encoder.conv_out.weight"])
    bias = inner.weight[:, :, 0, 0] @ known["encoder.conv_out.bias"] + inner.bias
    weights, biases = _grown(encoded, bias, few, many)
    state["encoder.conv_out.weight"], state["encoder.conv_out.bias"] = weights, biases
    entrance = known["decoder.conv_in.weight"]
    decoded = torch.einsum("oihw,ij->ojhw", entrance, outer.weight[:, :, 0, 0])
    added = torch.randn(entrance.shape[0], many - few, *entrance.shape[2:]) * decoded.std()
    state["decoder.conv_in.weight"] = torch.cat([decoded, added], dim=1)
    state["decoder.conv_in.bias"] = known["decoder.conv_in.bias"] + entrance.sum(dim=(2, 3)) @ outer.bias
    new.load_state_dict(state)
    return new


def _grown(weight: Tensor, bias: Tensor, few: int, many: int) -> tuple[Tensor, Tensor]:
    """The encoder's last convolution with ``many`` means and log variances instead of ``few`` of each."""
    means, variances = weight.split(few)
    new_means = torch.randn(many - few, *weight.shape[1:]) * means.std()
    new_variances = torch.zeros(many - few, *weight.shape[1:])
    weights = torch.cat([means, new_means, variances, new_variances])
    mean_bias, variance_bias = bias.split(few)
    zero, small = torch.zeros(many - few), torch.full((many - few,), -4.0)
    return weights, torch.cat([mean_bias, zero, variance_bias, small])


@torch.no_grad()
def equalise(vae: AutoencoderKL, means: Sequence[float], deviations: Sequence[float]) -> None:
    """Gives all latent channels one standard deviation, and the config the shift and the factor of all.

    Pictures stay what they were. One scalar shift and factor is what pipelines of this family know. The
    means of single channels stay where they are: under zero padding the decoder could not take them up.

    Args:
        vae: changed in place; ``(latents - shift_factor) * scaling_factor`` has unit variance afterwards.
        means: of each channel, float.
        deviations: of each channel, float.
    """
    mean, deviation = torch.tensor(means), torch.tensor(deviations)
    channels = len(mean)
    rows = deviation[:, None, None, None]
    last, first = vae.encoder.conv_out, vae.decoder.conv_in
    last.weight[:channels] /= rows
    last.bias[:channels] /= deviation
    last.bias[channels:] -= 2 * deviation.log()
    first.weight *= deviation[None, :, None, None]
    equal = mean / deviation
    shift = float(equal.mean())
    factor = float((1 + (equal - shift).square().mean()).rsqrt())
    vae.register_to_config(shift_factor=shift, scaling_factor=factor)


def new_transformer() -> SD3Transformer2DModel:
    """An MMDiT with fresh weights, in training mode, float32; every block starts as the identity.

    Source: Peebles and Xie 2022, arXiv:2212.09748, section 3.2 (adaLN-Zero), which diffusers leaves out.
    """
    transformer = SD3Transformer2DModel(**TRANSFORMER_CONFIG)
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
            if name == "proj_out" or name.endswith((".linear", "norm_out.linear")):
                nn.init.zeros_(module.weight)
    nn.init.normal_(transformer.time_text_embed.timestep_embedder.linear_1.weight, std=0.02)
    nn.init.normal_(transformer.time_text_embed.timestep_embedder.linear_2.weight, std=0.02)
    return transformer


def new_second_pair(*, vocab_size: int, eos_token_id: int, bos_token_id: int, pad_token_id: int) -> CLIPModel:
    """The second text tower with fresh weights, in a CLIP pair whose picture tower is never used.

    Another width, depth and activation than pocket's tower, as CLIP-G has beside CLIP-L.
    """
    text = {
        "vocab_size": vocab_size,
        "hidden_size": SECOND_TEXT_WIDTH,
        "intermediate_size": 4 * SECOND_TEXT_WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": TEXT_TOKENS,
        "projection_dim": PROJECTION,
        "hidden_act": "gelu",
        "bos_token_id": bos_token_id,
        "eos_token_id": eos_token_id,
        "pad_token_id": pad_token_id,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "image_size": SIZE_PX,
        "patch_size": SIZE_PX,
        "projection_dim": PROJECTION,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=PROJECTION))


assert TEXT_WIDTH + SECOND_TEXT_WIDTH <= JOINT_WIDTH
