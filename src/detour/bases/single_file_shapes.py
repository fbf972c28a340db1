"""Settings of a single-file SD 1.x, as far as the shapes of its tensors tell them."""

from collections.abc import Mapping
from typing import Any

from detour.errors import BaseError

Shapes = Mapping[str, tuple[int, ...]]

UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT = "cond_stage_model.transformer."


def infer_configs(shapes: Shapes, *, where: str) -> dict[str, dict[str, Any]]:
    """Part → the settings that differ between sizes of the same layout.

    Heads (8 in the UNet; one per 64 of the text width), norm groups (32) and the picture size cannot be told
    and stay SD 1.5's.

    Raises:
        BaseError: the names are SD 1.x's, their structure is not.
    """
    try:
        unet = _unet(shapes)
        if len(shapes[UNET + "input_blocks.1.1.proj_in.weight"]) != 4:
            raise BaseError(
                f"{where}: its UNet has Linear projections (SD 2.x); pass its diffusers folder or hub id."
            )
        return {"unet": unet, "vae": _vae(shapes), "text_encoder": _text(shapes)}
    except (KeyError, StopIteration, IndexError, ZeroDivisionError) as error:
        raise BaseError(f"{where}: its tensors do not make an SD 1.x ({error} is missing).") from error


def _unet(shapes: Shapes) -> dict[str, Any]:
    channels: list[int] = []
    attends: list[bool] = []
    layers: list[int] = []
    level_layers, index = 0, 1
    while True:
        prefix = f"{UNET}input_blocks.{index}."
        if prefix + "0.in_layers.2.weight" in shapes:
            if level_layers == 0:
                channels.append(shapes[prefix + "0.in_layers.2.weight"][0])
                attends.append(prefix + "1.proj_in.weight" in shapes)
            level_layers += 1
        else:  # a downsampler, or the end
            layers.append(level_layers)
            level_layers = 0
            if prefix + "0.op.weight" not in shapes:
                break
        index += 1
    to_k = next(name for name in shapes if name.startswith(UNET) and name.endswith("attn2.to_k.weight"))
    return {
        "in_channels": shapes[UNET + "input_blocks.0.0.weight"][1],
        "out_channels": shapes[UNET + "out.2.weight"][0],
        "block_out_channels": channels,
        "layers_per_block": layers[0],
        "down_block_types": ["CrossAttnDownBlock2D" if attend else "DownBlock2D" for attend in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)],
        "cross_attention_dim": shapes[to_k][1],
    }


def _vae(shapes: Shapes) -> dict[str, Any]:
    channels: list[int] = []
    while (name := f"{VAE}encoder.down.{len(channels)}.block.0.conv2.weight") in shapes:
        channels.append(shapes[name][0])
    layers = 0
    while f"{VAE}encoder.down.0.block.{layers}.conv1.weight" in shapes:
        layers += 1
    return {
        "block_out_channels": channels,
        "layers_per_block": layers,
        "latent_channels": shapes[VAE + "post_quant_conv.weight"][1],
        "down_block_types": ["DownEncoderBlock2D"] * len(channels),
        "up_block_types": ["UpDecoderBlock2D"] * len(channels),
    }


def _text(shapes: Shapes) -> dict[str, Any]:
    prefix = TEXT + ("text_model." if any(name.startswith(TEXT + "text_model.") for name in shapes) else "")
    tokens, width = shapes[prefix + "embeddings.token_embedding.weight"]
    layers = 0
    while f"{prefix}encoder.layers.{layers}.mlp.fc1.weight" in shapes:
        layers += 1
    return {
        "vocab_size": tokens,
        "hidden_size": width,
        "intermediate_size": shapes[prefix + "encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // 64),
        "max_position_embeddings": shapes[prefix + "embeddings.position_embedding.weight"][0],
        "projection_dim": width,
    }
