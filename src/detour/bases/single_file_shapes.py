"""Family and settings of a single-file checkpoint, as far as the names and shapes of its tensors tell them."""

from collections.abc import Mapping
from typing import Any

from detour.adapters.reference_kinds import facts_of_shapes, is_reference_file
from detour.bases.families import FamilyName
from detour.bases.single_file_text import PREFIXES
from detour.errors import BaseError

Shapes = Mapping[str, tuple[int, ...]]

UNET = "model.diffusion_model."
VAE = "first_stage_model."


def family_of_shapes(shapes: Shapes, *, where: str) -> FamilyName:
    """Which Stable Diffusion a checkpoint is, from how its text encoders are named.

    Raises:
        BaseError: an adapter, a refining model, or nothing that is known.
    """
    if any(".lora_down." in name or ".lora_A." in name for name in shapes):
        raise BaseError(f"{where}: this is an adapter, not a base. Pass it with --lora.")
    if is_reference_file(shapes):
        facts = facts_of_shapes(shapes, where=where)
        raise BaseError(
            f"{where}: this is an IP-Adapter ({facts.words}), not a base. Look at it with detour show, and pass it "
            "with --reference-adapter."
        )
    if not any(name.startswith(f"{UNET}input_blocks.") for name in shapes):
        raise BaseError(
            f"{where}: no checkpoint of the layout of Stable Diffusion 1.x, 2.x or XL (no "
            f"'{UNET}input_blocks…' inside)."
        )
    if not any(name.startswith(VAE) for name in shapes):
        raise BaseError(f"{where}: the base lacks its VAE ('{VAE}…'). Use a complete checkpoint.")
    for family in ("sdxl", "sd2", "sd1"):
        # some writers leave out ``text_model.``
        starts = [prefix.removesuffix("text_model.") for prefix in PREFIXES[family].values()]
        if all(any(name.startswith(start) for name in shapes) for start in starts):
            return family
    if any(name.startswith("conditioner.embedders.0.model.") for name in shapes):
        raise BaseError(f"{where}: the refining model of Stable Diffusion XL. Use the base model.")
    raise BaseError(
        f"{where}: the base lacks its text encoder ('cond_stage_model.…' or 'conditioner.…'). Use a complete "
        "checkpoint."
    )


def infer_configs(shapes: Shapes, family: FamilyName, *, where: str) -> dict[str, dict[str, Any]]:
    """Part → the settings that differ between sizes of the same layout.

    Heads (8 in SD 1's UNet, one per 64 channels in the others; one per 64 of the text width), norm groups (32) and the
    picture size cannot be told and stay the family's.

    Raises:
        BaseError: the names are the family's, their structure is not.
    """
    try:
        unet = _unet(shapes)
        if family != "sd1":
            unet["attention_head_dim"] = [max(1, width // 64) for width in unet["block_out_channels"]]
        if family == "sdxl":
            unet["transformer_layers_per_block"] = _depths(shapes, len(unet["block_out_channels"]))
            unet["projection_class_embeddings_input_dim"] = shapes[f"{UNET}label_emb.0.0.weight"][1]
        is_linear = len(shapes[_attention(shapes, "proj_in.weight")]) == 2
        if is_linear != (family != "sd1"):
            raise BaseError(f"{where}: its UNet and its text encoder are of different families.")
        texts = {part: _text(shapes, prefix) for part, prefix in PREFIXES[family].items()}
        return {"unet": unet, "vae": _vae(shapes), **texts}
    except (KeyError, StopIteration, IndexError, ZeroDivisionError) as error:
        raise BaseError(f"{where}: its tensors do not make a base ({error} is missing).") from error


def _attention(shapes: Shapes, ending: str) -> str:
    return next(
        name for name in shapes if name.startswith(f"{UNET}input_blocks.") and name.endswith(f".1.{ending}")
    )


def _depths(shapes: Shapes, levels: int) -> list[int]:
    """Transformer blocks in the attentions of each level; 1, as diffusers writes it, where there are none."""
    depths = [1] * levels
    level, index = 0, 1
    while f"{UNET}input_blocks.{index}.0.in_layers.2.weight" in shapes or (
        f"{UNET}input_blocks.{index}.0.op.weight" in shapes
    ):
        if f"{UNET}input_blocks.{index}.0.op.weight" in shapes:
            level += 1
        depth = 0
        while f"{UNET}input_blocks.{index}.1.transformer_blocks.{depth}.norm1.weight" in shapes:
            depth += 1
        depths[level] = max(depths[level], depth)
        index += 1
    return depths


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


def _text(shapes: Shapes, prefix: str) -> dict[str, Any]:
    if prefix.endswith(".text_model."):
        return _text_of_transformers(shapes, prefix)
    return _text_of_open_clip(shapes, prefix)


def _text_of_transformers(shapes: Shapes, prefix: str) -> dict[str, Any]:
    if not any(name.startswith(prefix) for name in shapes):
        prefix = prefix.removesuffix("text_model.")
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


def _text_of_open_clip(shapes: Shapes, prefix: str) -> dict[str, Any]:
    tokens, width = shapes[prefix + "token_embedding.weight"]
    layers = 0
    while f"{prefix}transformer.resblocks.{layers}.ln_1.weight" in shapes:
        layers += 1
    found = {
        "vocab_size": tokens,
        "hidden_size": width,
        "intermediate_size": shapes[f"{prefix}transformer.resblocks.0.mlp.c_fc.weight"][0],
        # SD 2 reads the last but one of open_clip's 24 layers; diffusers leaves the last one out
        "num_hidden_layers": 23 if layers == 24 else layers,
        "num_attention_heads": max(1, width // 64),
        "max_position_embeddings": shapes[prefix + "positional_embedding"][0],
    }
    if prefix.startswith("conditioner."):
        found["projection_dim"] = shapes[prefix + "text_projection"][1]
    return found
