"""Names of the parts' tensors in single-file checkpoints of Stable Diffusion 1.x, 2.x and XL."""

import re
from collections.abc import Mapping
from typing import Any

from detour.bases.families import FamilyName
from detour.bases.single_file_text import TensorPlace, text_place

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def place_of(family: FamilyName, part: str, name: str, config: Mapping[str, Any]) -> TensorPlace:
    """Where a part's tensor stands in the checkpoint.

    Args:
        family: of the checkpoint; it decides on the text encoders' names alone.
        part: ``unet``, ``vae``, ``text_encoder`` or ``text_encoder_2``.
        name: the tensor's name in the part, e.g. ``down_blocks.0.resnets.1.conv1.weight``.
        config: the part's settings.

    Returns:
        For example the place named ``model.diffusion_model.input_blocks.2.0.in_layers.2.weight``.
    """
    if part == "unet":
        return TensorPlace(name="model.diffusion_model." + _unet_name(name, config))
    if part == "vae":
        return TensorPlace(name="first_stage_model." + _vae_name(name, len(config["block_out_channels"])))
    return text_place(family, part, name)


def _unet_name(name: str, config: Mapping[str, Any]) -> str:
    for ours, theirs in UNET_ENDS.items():
        if name.startswith(ours + "."):
            return theirs + name.removeprefix(ours)
    block, rest = _split(name)
    kind, _, inner = rest.partition(".")
    index, _, inner = inner.partition(".")
    if kind == "resnets":
        inner = _renamed(inner, RESNET)
    if block == "mid_block":
        # resnet 0, attention, resnet 1 stand as 0, 1, 2
        place = 1 if kind == "attentions" else 2 * int(index)
        return f"middle_block.{place}.{inner}"
    level, layer = int(block.partition(".")[2]), int(index)
    resnets = int(config["layers_per_block"])
    if block.startswith("down_blocks"):
        first = 1 + level * (resnets + 1)
        if kind == "downsamplers":
            return f"input_blocks.{first + resnets}.0.{inner.replace('conv', 'op', 1)}"
        return f"input_blocks.{first + layer}.{int(kind == 'attentions')}.{inner}"
    first = level * (resnets + 1)
    if kind == "upsamplers":
        has_attention = config["up_block_types"][level].startswith("CrossAttn")
        return f"output_blocks.{first + resnets}.{2 if has_attention else 1}.{inner}"
    return f"output_blocks.{first + layer}.{int(kind == 'attentions')}.{inner}"


def _vae_name(name: str, levels: int) -> str:
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    attention = re.match(r"(\w+\.)mid_block\.attentions\.0\.(.+)", name)
    if attention:
        return f"{attention[1]}mid.attn_1.{_renamed(attention[2], VAE_ATTENTION)}"
    name = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    # the original counts the decoder's levels from the finest
    up = re.sub(
        r"up_blocks\.(\d+)\.resnets\.(\d+)",
        lambda found: f"up.{levels - 1 - int(found[1])}.block.{found[2]}",
        name,
    )
    return re.sub(
        r"up_blocks\.(\d+)\.upsamplers\.0", lambda found: f"up.{levels - 1 - int(found[1])}.upsample", up
    )


def _split(name: str) -> tuple[str, str]:
    """``down_blocks.0.resnets.1.conv1.weight`` → ``("down_blocks.0", "resnets.1.conv1.weight")``."""
    if name.startswith("mid_block."):
        return "mid_block", name.removeprefix("mid_block.")
    kind, level, rest = name.split(".", 2)
    return f"{kind}.{level}", rest


def _renamed(name: str, table: Mapping[str, str]) -> str:
    for ours, theirs in table.items():
        if name.startswith(ours + "."):
            return theirs + name.removeprefix(ours)
    return name
