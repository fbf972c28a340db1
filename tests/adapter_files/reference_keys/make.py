"""The names of every layer in kohya's files, made from the published rules and nothing of ours.

``python -m tests.adapter_files.reference_keys.make`` writes one compressed list for each family: the module names of
each model, with ``_`` for ``.``, behind the prefix of its part. ComfyUI reads the same names, and those of the original
code with their dots behind ``diffusion_model.``.

Sources of the rules: for SD 1 and 2 the module names of diffusers' ``UNet2DConditionModel``, which kohya's
``networks/lora.py`` flattens; for SDXL those of Stability AI's ``openaimodel.py`` (``sdxl_original_unet.py`` in
sd-scripts); for Flux those of Black Forest Labs' ``model.py`` (``networks/lora_flux.py``); for SD 3 those of Stability
AI's ``mmdit.py`` (``networks/lora_sd3.py``); text encoders are transformers' CLIP and T5 as they were named when these
files were first written, with ``text_model``.
"""

import gzip
from pathlib import Path

PLACE = Path(__file__).parent

ATTENTION = [f"attn{one}.to_{name}" for one in (1, 2) for name in ("q", "k", "v", "out.0")]
BLOCK = [*ATTENTION, "ff.net.0.proj", "ff.net.2"]
RESNET = ["conv1", "conv2", "time_emb_proj"]
ORIGINAL_RESNET = ["in_layers.2", "out_layers.3", "emb_layers.1"]


def attention(depth: int) -> list[str]:
    """One attention of a UNet with its transformer blocks."""
    blocks = [f"transformer_blocks.{index}.{name}" for index in range(depth) for name in BLOCK]
    return ["proj_in", *blocks, "proj_out"]


def unet(widths: list[int], attends: list[bool]) -> list[str]:
    """SD 1 and 2: two resnets a level on the way down, three on the way up, one transformer block an attention."""
    names = ["conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2"]
    levels = len(widths)
    skips = [widths[0]]
    width = widths[0]
    for level in range(levels):
        for index in range(2):
            names += resnet(f"down_blocks.{level}.resnets.{index}", width, widths[level])
            width = widths[level]
            skips.append(width)
            if attends[level]:
                names += [f"down_blocks.{level}.attentions.{index}.{name}" for name in attention(1)]
        if level < levels - 1:
            names.append(f"down_blocks.{level}.downsamplers.0.conv")
            skips.append(width)
    names += [f"mid_block.resnets.{index}.{name}" for index in (0, 1) for name in RESNET]
    names += [f"mid_block.attentions.0.{name}" for name in attention(1)]
    for level in range(levels):
        out = widths[levels - 1 - level]
        for index in range(3):
            names += resnet(f"up_blocks.{level}.resnets.{index}", width + skips.pop(), out)
            width = out
            if attends[levels - 1 - level]:
                names += [f"up_blocks.{level}.attentions.{index}.{name}" for name in attention(1)]
        if level < levels - 1:
            names.append(f"up_blocks.{level}.upsamplers.0.conv")
    return names


def resnet(place: str, inputs: int, outputs: int) -> list[str]:
    """A resnet has a way around it where its widths differ."""
    return [f"{place}.{name}" for name in RESNET + (["conv_shortcut"] if inputs != outputs else [])]


def sdxl() -> list[str]:
    """The loop of the original code: blocks are counted through, whatever is in them."""
    widths, depths = [320, 640, 1280], [0, 2, 10]
    names = ["input_blocks.0.0", "out.2", "time_embed.0", "time_embed.2", "label_emb.0.0", "label_emb.0.2"]
    skips, width, count = [320], 320, 1

    def add(block: str, inputs: int, outputs: int, depth: int) -> None:
        extra = ["skip_connection"] if inputs != outputs else []
        names.extend(f"{block}.0.{name}" for name in ORIGINAL_RESNET + extra)
        if depth:
            names.extend(f"{block}.1.{name}" for name in attention(depth))

    for level in range(3):
        for _ in range(2):
            add(f"input_blocks.{count}", width, widths[level], depths[level])
            width = widths[level]
            skips.append(width)
            count += 1
        if level < 2:
            names.append(f"input_blocks.{count}.0.op")
            skips.append(width)
            count += 1
    names += [f"middle_block.{index}.{name}" for index in (0, 2) for name in ORIGINAL_RESNET]
    names += [f"middle_block.1.{name}" for name in attention(10)]
    count = 0
    for level in (2, 1, 0):
        for index in range(3):
            add(f"output_blocks.{count}", width + skips.pop(), widths[level], depths[level])
            width = widths[level]
            if level > 0 and index == 2:
                names.append(f"output_blocks.{count}.{2 if depths[level] else 1}.conv")
            count += 1
    return names


def flux(doubles: int = 19, singles: int = 38, *, guidance: bool = True) -> list[str]:
    """Every Linear of Flux; FLUX.1 [schnell] has no guidance."""
    names = ["img_in", "txt_in", "final_layer.linear", "final_layer.adaLN_modulation.1"]
    embedders = ("time", "vector", "guidance") if guidance else ("time", "vector")
    names += [f"{one}_in.{layer}_layer" for one in embedders for layer in ("in", "out")]
    for index in range(doubles):
        for side in ("img", "txt"):
            block = f"double_blocks.{index}.{side}"
            names += [f"{block}_{end}" for end in ("attn.qkv", "attn.proj", "mlp.0", "mlp.2", "mod.lin")]
    for index in range(singles):
        names += [f"single_blocks.{index}.{end}" for end in ("linear1", "linear2", "modulation.lin")]
    return names


def sd3(depth: int, dual: range = range(0)) -> list[str]:
    """Every Linear and convolution of MMDiT; the last context block ends behind its attention's input."""
    names = ["x_embedder.proj", "context_embedder", "final_layer.linear", "final_layer.adaLN_modulation.1"]
    names += [f"{one}_embedder.mlp.{layer}" for one in ("t", "y") for layer in (0, 2)]
    for index in range(depth):
        ends = ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "adaLN_modulation.1"]
        names += [f"joint_blocks.{index}.x_block.{end}" for end in ends]
        if index in dual:
            names += [f"joint_blocks.{index}.x_block.attn2.{end}" for end in ("qkv", "proj")]
        context = ends if index < depth - 1 else ["attn.qkv", "adaLN_modulation.1"]
        names += [f"joint_blocks.{index}.context_block.{end}" for end in context]
    return names


def clip(layers: int) -> list[str]:
    """A CLIP text encoder."""
    ends = [f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")] + ["mlp.fc1", "mlp.fc2"]
    return [f"text_model.encoder.layers.{index}.{end}" for index in range(layers) for end in ends]


def t5(blocks: int = 24) -> list[str]:
    """The T5 v1.1 XXL encoder."""
    ends = [f"layer.0.SelfAttention.{name}" for name in "qkvo"]
    ends += [f"layer.1.DenseReluDense.{name}" for name in ("wi_0", "wi_1", "wo")]
    return [f"encoder.block.{index}.{end}" for index in range(blocks) for end in ends]


LEVELS = [320, 640, 1280, 1280], [True, True, True, False]

FAMILIES = {
    "sd1": {"lora_unet": unet(*LEVELS), "lora_te": clip(12)},
    "sd2": {"lora_unet": unet(*LEVELS), "lora_te": clip(23)},
    "sdxl": {"lora_unet": sdxl(), "lora_te1": clip(12), "lora_te2": clip(32)},
    "flux": {"lora_unet": flux(), "lora_te1": clip(12), "lora_te3": t5()},
    "sd3.5-medium": {
        "lora_unet": sd3(24, range(13)),
        "lora_te1": clip(12),
        "lora_te2": clip(32),
        "lora_te3": t5(),
    },
    "sd3.5-large": {"lora_unet": sd3(38), "lora_te1": clip(12), "lora_te2": clip(32), "lora_te3": t5()},
}
"""Family → prefix → dotted names."""


def names_of(family: str) -> list[str]:
    """The sorted names of a family's layers in a kohya file."""
    return sorted(
        f"{prefix}_{name.replace('.', '_')}" for prefix, names in FAMILIES[family].items() for name in names
    )


def stored(family: str) -> list[str]:
    """The list that is kept."""
    return gzip.decompress((PLACE / f"{family}.txt.gz").read_bytes()).decode().split()


if __name__ == "__main__":
    for family in FAMILIES:
        text = "\n".join(names_of(family)) + "\n"
        (PLACE / f"{family}.txt.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
