"""Layer names in kohya files, both ways.

kohya writes a module path with ``_`` for ``.``, which no rule on signs can undo (``to_out_0`` is
``to_out.0``, ``proj_in`` stays): the grammar of diffusers' UNets and CLIP's text encoders can. SDXL's UNet
is written under the block names of the original code, and so are Flux and SD 3
(:mod:`detour.bases.transformer_names`).
"""

import re
from collections.abc import Mapping

from detour.adapters.adapter import part_of, path_of
from detour.bases.transformer_names import is_transformer_path, original_from_flat, path_from_flat
from detour.errors import AdapterError

UNET_PREFIX = "lora_unet_"
TEXT_PREFIXES = {
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_te3_": "text_encoder_3",
}
FLAT_PATH_PREFIXES = ("lora_transformer_", "lycoris_")
"""Some trainers flatten diffusers' own paths."""

DOTTED_PREFIXES = {
    "diffusion_model.": "lora_unet_",
    "text_encoders.clip_l.transformer.": "lora_te1_",
    "text_encoders.clip_g.transformer.": "lora_te2_",
    "text_encoders.clip_h.transformer.": "lora_te_",
    "text_encoders.t5xxl.transformer.": "lora_te3_",
}
"""ComfyUI's own names with their dots → what stands for them in kohya's."""

KOHYA_PREFIXES = (UNET_PREFIX, *TEXT_PREFIXES, *FLAT_PATH_PREFIXES, *DOTTED_PREFIXES)
"""How the names in a file of kohya's kind begin."""

OLD_TEXT_PREFIX = "text_model_"
"""kohya files name CLIP's layers as transformers before version 5 did; our keys are without it."""

_BLOCK = (
    r"resnets\.\d+\.(?:conv1|conv2|time_emb_proj|conv_shortcut)"
    r"|attentions\.\d+\.(?:proj_in|proj_out"
    r"|transformer_blocks\.\d+\.(?:attn[12]\.(?:to_[qkv]|to_out\.0)|ff\.net\.(?:0\.proj|2)))"
    r"|(?:downsamplers|upsamplers)\.0\.conv"
)
_UNET = re.compile(
    rf"(?:(?:down_blocks\.\d+|up_blocks\.\d+|mid_block)\.(?:{_BLOCK})"
    r"|(?:time|add)_embedding\.linear_[12]|time_embedding\.cond_proj|conv_in|conv_out)"
)
_T5 = re.compile(
    r"encoder\.block\.\d+\.layer\.(?:0\.SelfAttention\.[qkvo]|1\.DenseReluDense\.(?:wi|wi_0|wi_1|wo))"
)
_FLAT_T5 = re.compile(
    r"encoder_block_(\d+)_layer_([01])_(SelfAttention|DenseReluDense)_([qkvo]|wi|wi_0|wi_1|wo)"
)
_TEXT = re.compile(
    r"(?:encoder\.layers\.\d+\.(?:self_attn\.(?:[qkv]_proj|out_proj)|mlp\.fc[12])|text_projection)"
)
# Words with an underscore of their own come before their parts.
_WORDS = re.compile(
    r"down_blocks|up_blocks|mid_block|transformer_blocks|time_emb_proj|conv_shortcut|conv_in|conv_out|proj_in"
    r"|proj_out|to_[qkv]|to_out|time_embedding|add_embedding|linear_[12]|cond_proj|self_attn|[qkv]_proj|out_proj"
    r"|text_projection|[a-z]+\d?|\d+"
)

_RESNET_NAMES = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_PLAIN_NAMES = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}


def _flat_inverse(names: Mapping[str, str]) -> dict[str, str]:
    return {original.replace(".", "_"): ours for ours, original in names.items()}


_RESNET_PATHS = _flat_inverse(_RESNET_NAMES)
_PLAIN_PATHS = _flat_inverse(_PLAIN_NAMES)


def is_layer_path(part: str, path: str) -> bool:
    """Whether a base's part can have a Linear or convolution at this (dotted) path."""
    if part == "transformer":
        return is_transformer_path(path)
    if part in ("text_encoder_2", "text_encoder_3") and _T5.fullmatch(path):
        return True
    return (_UNET if part == "unet" else _TEXT).fullmatch(path) is not None


def is_t5_path(path: str) -> bool:
    """Whether a text encoder that has this path is a T5."""
    return _T5.fullmatch(path) is not None


_CONVOLUTION = re.compile(r"(?:.*\.)?(?:conv1|conv2|conv_shortcut|conv|conv_in|conv_out)|pos_embed\.proj")


def is_convolution(key: str, *, family: str) -> bool:
    """Whether the layer is a convolution in bases of this family; SD 1's attention has 1×1 ones around it."""
    path = path_of(key)
    if _CONVOLUTION.fullmatch(path):
        return True
    return family == "sd1" and part_of(key) == "unet" and path.endswith((".proj_in", ".proj_out"))


def dotted(part: str, flat: str) -> str | None:
    """``"mid_block_attentions_0_proj_in"`` → ``"mid_block.attentions.0.proj_in"``; None if it is no layer."""
    if part != "unet" and (t5 := _FLAT_T5.fullmatch(flat)):
        path = f"encoder.block.{t5[1]}.layer.{t5[2]}.{t5[3]}.{t5[4]}"
        return path if is_layer_path(part, path) else None
    path = ".".join(_WORDS.findall(flat))
    return path if path.replace(".", "_") == flat and is_layer_path(part, path) else None


def kohya_key(key: str, *, family: str, text_prefixes: Mapping[str, str]) -> str:
    """``"unet.mid_block.attentions.0.proj_in"`` → ``"lora_unet_mid_block_attentions_0_proj_in"``.

    Args:
        key: layer key.
        family: "sdxl" takes the original block names; a transformer's layers are named as in the original.
        text_prefixes: text part → ``"lora_te"``, ``"lora_te1"`` or ``"lora_te2"``.

    Raises:
        AdapterError: a layer that kohya's format has no name for.
    """
    part, path = part_of(key), path_of(key)
    if part == "transformer":  # joined already: the path is an original name
        return UNET_PREFIX + path.replace(".", "_")
    if not is_layer_path(part, path):
        raise AdapterError(
            f"'{key}' is no layer that kohya files can name. Save it as diffusers or peft instead."
        )
    if part == "unet":
        name = original_name(path) if family == "sdxl" else path
        return UNET_PREFIX + name.replace(".", "_")
    if part not in text_prefixes:
        raise AdapterError(
            f"'{key}': the family '{family}' has no '{part}'. Save it for the family it was made for."
        )
    prefix = OLD_TEXT_PREFIX if path.startswith("encoder.layers.") else ""
    return f"{text_prefixes[part]}_{prefix}{path.replace('.', '_')}"


def flat_name(key: str) -> str:
    """``"transformer.transformer_blocks.0.attn.to_q"`` → ``"lycoris_transformer_blocks_0_attn_to_q"``.

    Source: the names that SimpleTuner gives LyCORIS layers of transformers, and that ComfyUI looks up.
    """
    return f"lycoris_{path_of(key).replace('.', '_')}"


def layer_key(name: str) -> str | None:
    """The layer key of a kohya name, of any family; None when it names no layer that is known.

    A layer of Flux or SD 3 keeps its original name behind ``transformer.``: it may stand for several.
    """
    if name.startswith(UNET_PREFIX):
        flat = name.removeprefix(UNET_PREFIX)
        if original := original_from_flat(flat):
            return f"transformer.{original}"
        path = dotted("unet", flat) or _from_original(flat)
        return f"unet.{path}" if path else None
    for prefix in FLAT_PATH_PREFIXES:
        if name.startswith(prefix):
            flat = name.removeprefix(prefix)
            path, unet = path_from_flat(flat), dotted("unet", flat)
            return f"transformer.{path}" if path else (f"unet.{unet}" if unet else None)
    for prefix, part in TEXT_PREFIXES.items():
        if name.startswith(prefix):
            path = dotted(part, name.removeprefix(prefix).removeprefix(OLD_TEXT_PREFIX))
            return f"{part}.{path}" if path else None
    return None


def original_name(path: str) -> str:
    """SDXL's name of a diffusers UNet path: ``"down_blocks.1.attentions.0.…"`` → ``"input_blocks.4.1.…"``.

    Raises:
        AdapterError: a block that the original code has no place for.

    Source: generative-models' openaimodel.py: three entries a level, two blocks and a sampler on the way
        down,
    three blocks on the way up.
    """
    if path in _PLAIN_NAMES:
        return _PLAIN_NAMES[path]
    words = path.split(".")
    if words[0] == "mid_block" and int(words[2]) < 2:
        kind, index, rest = words[1], int(words[2]), words[3:]
        place = {"resnets": 2 * index, "attentions": 1}[kind]
        return ".".join(["middle_block", str(place), *_inner(kind, rest)])
    if words[0] in ("down_blocks", "up_blocks") and len(words) > 4:
        level, kind, index, rest = int(words[1]), words[2], int(words[3]), words[4:]
        if kind == "downsamplers":
            return f"input_blocks.{3 * (level + 1)}.0.op"
        if kind == "upsamplers":
            return f"output_blocks.{3 * level + 2}.2.conv"
        down = words[0] == "down_blocks"
        if index < (2 if down else 3):
            place = 3 * level + index + (1 if down else 0)
            side = "input_blocks" if down else "output_blocks"
            return ".".join([side, str(place), "0" if kind == "resnets" else "1", *_inner(kind, rest)])
    raise AdapterError(
        f"'unet.{path}' has no place in SDXL's block names. Save it as diffusers or peft instead."
    )


def _inner(kind: str, rest: list[str]) -> list[str]:
    return [_RESNET_NAMES[rest[0]]] if kind == "resnets" else rest


_ORIGINAL_IN = re.compile(r"(?P<side>input|output)_blocks_(?P<place>\d{1,3})_(?P<slot>[012])_(?P<rest>\w+)")
_ORIGINAL_MID = re.compile(r"middle_block_(?P<slot>[012])_(?P<rest>\w+)")


def _from_original(flat: str) -> str | None:
    if flat in _PLAIN_PATHS:
        return _PLAIN_PATHS[flat]
    if match := _ORIGINAL_MID.fullmatch(flat):
        block = "attentions_0" if match["slot"] == "1" else f"resnets_{int(match['slot']) // 2}"
        return _joined("mid_block", block, match["rest"])
    if match := _ORIGINAL_IN.fullmatch(flat):
        return _from_block(match["side"] == "input", int(match["place"]), match["slot"], match["rest"])
    return None


def _from_block(down: bool, place: int, slot: str, rest: str) -> str | None:
    if down and place % 3 == 0:
        return f"down_blocks.{place // 3 - 1}.downsamplers.0.conv" if rest == "op" and place > 0 else None
    level, index = divmod(place - 1 if down else place, 3)
    side = f"down_blocks_{level}" if down else f"up_blocks_{level}"
    if rest == "conv" and not down:  # behind the attention where there is one
        return f"up_blocks.{level}.upsamplers.0.conv" if index == 2 and slot != "0" else None
    if slot == "2":
        return None
    return _joined(side, f"{'resnets' if slot == '0' else 'attentions'}_{index}", rest)


def _joined(side: str, block: str, rest: str) -> str | None:
    inner = _RESNET_PATHS.get(rest) if block.startswith("resnets") else rest
    return dotted("unet", f"{side}_{block}_{inner}") if inner else None
