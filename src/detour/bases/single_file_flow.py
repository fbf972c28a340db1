"""Single files of SD 3 and Flux: the transformer, with VAE and text encoders inside or in files beside it.

People have one file with everything (``sd3…_incl_clips.safetensors``), or the transformer alone with
``ae.safetensors``, ``clip_l.safetensors``, ``clip_g.safetensors`` and ``t5xxl….safetensors`` in the same folder. T5's
tokenizer is in none of them: ``NAME.config/`` beside ``NAME.safetensors`` may hold it, and all that shapes cannot tell,
in diffusers layout without weights. Without it SD 3 is opened without its T5, and Flux is refused.

Source: the module names of Stability AI's MMDiT and of Black Forest Labs' flux; ComfyUI's prefixes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detour.bases import parts
from detour.bases.families import FAMILIES, FamilyName
from detour.bases.single_file_header import read_shapes
from detour.bases.transformer_names import halves_change_places, place_of
from detour.errors import BaseError

Shapes = Mapping[str, tuple[int, ...]]

TRANSFORMER = ("model.diffusion_model.", "")
VAE = ("first_stage_model.", "vae.", "")
FIRST_LAYERS: Mapping[str, FamilyName] = {"joint_blocks.0.": "sd3", "double_blocks.0.": "flux"}

BESIDE: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "vae": (VAE, ("ae.safetensors", "*vae*.safetensors")),
    "clip_l": (("text_encoders.clip_l.transformer.", ""), ("clip_l*.safetensors",)),
    "clip_g": (("text_encoders.clip_g.transformer.", ""), ("clip_g*.safetensors",)),
    "t5xxl": (("text_encoders.t5xxl.transformer.", ""), ("t5xxl*.safetensors",)),
}
"""What may stand in a file of its own → how its names begin inside the checkpoint and alone; files beside it."""

ENCODERS: Mapping[FamilyName, Mapping[str, str]] = {
    "sd3": {"text_encoder": "clip_l", "text_encoder_2": "clip_g", "text_encoder_3": "t5xxl"},
    "flux": {"text_encoder": "clip_l", "text_encoder_2": "t5xxl"},
}

_BLOCK = r"transformer_blocks\.(\d+)\."
_DOUBLE = r"double_blocks.\1."
_NORMS = {
    "sd3": (
        (_BLOCK + r"(attn2?)\.norm_([qk])\.weight", r"joint_blocks.\1.x_block.\2.ln_\3.weight"),
        (_BLOCK + r"attn\.norm_added_([qk])\.weight", r"joint_blocks.\1.context_block.attn.ln_\2.weight"),
        (r"pos_embed\.pos_embed", "pos_embed"),
    ),
    "flux": (
        (_BLOCK + r"attn\.norm_([qk])\.weight", _DOUBLE + r"img_attn.norm.\2_norm.scale"),
        (_BLOCK + r"attn\.norm_added_([qk])\.weight", _DOUBLE + r"txt_attn.norm.\2_norm.scale"),
        ("single_" + _BLOCK + r"attn\.norm_([qk])\.weight", r"single_blocks.\1.norm.\2_norm.scale"),
    ),
}
_LONG = {"q_norm": "query_norm", "k_norm": "key_norm"}


def flow_family(shapes: Shapes) -> FamilyName | None:
    """SD 3 or Flux, from the names in a checkpoint; ``None`` for others."""
    for layer, family in FIRST_LAYERS.items():
        if any(name.removeprefix(TRANSFORMER[0]).startswith(layer) for name in shapes):
            return family
    return None


def open_flow(
    path: Path, shapes: Shapes, family: FamilyName, shipped: Path, beside: Path
) -> tuple[Path, dict[str, Mapping[str, Any]]]:
    """Settings of a single file of SD 3 or Flux.

    Args:
        path: the checkpoint.
        shapes: of its tensors.
        family: of the checkpoint.
        shipped: the folder of the settings that come with detour.
        beside: ``NAME.config/``, whether it is there or not.

    Returns:
        The folder of tokenizers and the settings of each part; SD 3 without a T5 where there is no tokenizer for it.

    Raises:
        BaseError: fp8 with scales of its own, or a part that is neither inside nor beside the file.
    """
    if any(name.endswith(("scale_weight", "scale_input", "scaled_fp8")) for name in shapes):
        raise BaseError(
            f"{path.name}: its weights are fp8 with scales of their own, which are not read. Use the bf16 or fp16 file."
        )
    t5 = FAMILIES[family].t5_part
    assert t5 is not None
    has_t5 = (beside / t5.replace("text_encoder", "tokenizer")).is_dir()
    if not has_t5 and not FAMILIES[family].t5_optional:
        raise BaseError(
            f"{path.name}: a single file has no tokenizer for its T5. Put tokenizer_2/ of the model's diffusers folder "
            f"into {beside.name}/ beside it."
        )
    names = [
        "transformer",
        "vae",
        *(p for p in FAMILIES[family].text_parts if has_t5 or p != t5),
        "scheduler",
    ]
    for part in names[1:-1]:
        _source(path, shapes, part, family)
    if (beside / "transformer").is_dir():
        return beside, {part: parts.read_config(beside, part) for part in names}
    inferred = _sd3_config(shapes) if family == "sd3" else _flux_config(shapes)
    name = "sd35-medium" if family == "sd3" else "flux-dev" if inferred["guidance_embeds"] else "flux-schnell"
    configs: dict[str, Mapping[str, Any]] = {part: parts.read_config(shipped / name, part) for part in names}
    if family == "sd3":  # medium's alone
        configs["transformer"] = {
            k: v for k, v in configs["transformer"].items() if k != "dual_attention_layers"
        }
    configs["transformer"] = {**configs["transformer"], **inferred}
    return beside if beside.is_dir() else shipped / name, configs


def files_of_flow(path: Path, shapes: Shapes, family: FamilyName, names: Sequence[str]) -> list[Path]:
    """The checkpoint and the files beside it that the base's parts are read from."""
    found = [_source(path, shapes, part, family)[0] for part in names if part != "transformer"]
    return [path, *dict.fromkeys(one for one in found if one != path)]


def read_flow_part(
    path: Path, shapes: Shapes, family: FamilyName, part: str, config: Mapping[str, Any], dtype: torch.dtype
) -> dict[str, Tensor]:
    """The tensors of one part under its own names, fp8 without scales among them.

    Raises:
        BaseError: a tensor is missing or of another shape, or the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    from detour.bases.single_file_names import place_of as vae_place

    wanted = {
        name: tuple(tensor.shape) for name, tensor in parts.empty_part(part, config).state_dict().items()
    }
    source, prefix = _source(path, shapes, part, family)
    there = shapes if source == path else read_shapes(source)
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(source, framework="pt") as checkpoint:

            def tensor_of(name: str) -> Tensor:
                if prefix + name not in there:
                    raise BaseError(f"{source.name}: lacks '{prefix}{name}' of the {part}.")
                found: Tensor = checkpoint.get_tensor(prefix + name)
                return found

            for name, shape in wanted.items():
                if part == "transformer":
                    tensor = _of_transformer(family, name, wanted, tensor_of)
                elif part == "vae":
                    original = vae_place("sd1", "vae", name, config).name
                    tensor = tensor_of(original.removeprefix("first_stage_model."))
                else:
                    tensor = tensor_of(_text_name(name, prefix, there))
                if tuple(tensor.shape) == (*shape, 1, 1):  # the VAE's attention is a 1x1 convolution there
                    tensor = tensor[:, :, 0, 0]
                if tuple(tensor.shape) != shape:
                    raise BaseError(
                        f"{source.name}: '{name}' is {tuple(tensor.shape)} where {shape} is expected. Put the model's "
                        f"settings into {path.stem}.config/ beside it."
                    )
                tensors[name] = tensor.to(dtype).contiguous()
    except SafetensorError as error:
        raise BaseError(f"{source.name}: damaged ({error}). Fetch it again.") from error
    return tensors


def _source(path: Path, shapes: Shapes, part: str, family: FamilyName) -> tuple[Path, str]:
    """Where a part stands: the file and how its names begin there."""
    if part == "transformer":
        inside = any(name.startswith(TRANSFORMER[0]) for name in shapes)
        return path, TRANSFORMER[0] if inside else ""
    kind = part if part == "vae" else ENCODERS[family][part]
    prefixes, patterns = BESIDE[kind]
    for prefix in filter(None, prefixes):
        if any(name.startswith(prefix) for name in shapes):
            return path, prefix
    found = next(
        (one for pattern in patterns for one in sorted(path.parent.glob(pattern)) if one != path), None
    )
    if found is None:
        raise BaseError(
            f"{path.name}: its {part} is neither in it nor beside it. Put {patterns[0].replace('*', '')} into the same "
            "folder, or pass a diffusers folder."
        )
    return found, ""


def _of_transformer(family: FamilyName, name: str, wanted: Shapes, tensor_of: Any) -> Tensor:
    """One tensor of the transformer: a whole one, some rows of a fused one, or one whose halves change places."""
    for pattern, original in _NORMS[family]:
        if re.fullmatch(pattern, name):
            found = re.sub(pattern, original, name)
            for short, long in _LONG.items():
                found = found.replace(f".{short}.", f".{long}.")
            tensor: Tensor = tensor_of(found)
            return tensor
    path, _, kind = name.rpartition(".")
    place = place_of(family, path)
    if place is None:
        raise BaseError(f"'{name}' has no place in single files of this family.")
    tensor = tensor_of(f"{place.name}.{kind}")
    if len(place.paths) > 1:
        first = sum(wanted[f"{before}.{kind}"][0] for before in place.paths[: place.index])
        return tensor[first : first + wanted[name][0]]
    rows = wanted[f"{path}.weight"]
    if halves_change_places(place.name, rows[1], rows[0]):
        return torch.cat(list(tensor.chunk(2))[::-1])
    return tensor


def _text_name(name: str, prefix: str, there: Shapes) -> str:
    """A text encoder's tensor; CLIP's with and without ``text_model.``, and T5's words, which stand there once."""
    if name == "encoder.embed_tokens.weight":
        name = "shared.weight"
    if name == "text_projection.weight":
        return name
    own = name.removeprefix("text_model.")
    return next((one for one in (name, f"text_model.{own}", own) if prefix + one in there), name)


def _count(shapes: Shapes, layer: str) -> int:
    """How many numbered blocks there are: ``layer`` has a ``#`` for the number."""
    count = 0
    while any(prefix + layer.replace("#", str(count)) in shapes for prefix in TRANSFORMER):
        count += 1
    return count


def _sides(shapes: Shapes, name: str) -> tuple[int, ...]:
    for prefix in TRANSFORMER:
        if prefix + name in shapes:
            return shapes[prefix + name]
    raise BaseError(f"the transformer lacks '{name}': these tensors do not make a base.")


def _sd3_config(shapes: Shapes) -> dict[str, Any]:
    """Heads are 64 wide in all published models."""
    width, channels = _sides(shapes, "x_embedder.proj.weight")[:2]
    layers = _count(shapes, "joint_blocks.#.x_block.attn.qkv.weight")
    doubled = [
        index
        for index in range(layers)
        if any(f"{prefix}joint_blocks.{index}.x_block.attn2.qkv.weight" in shapes for prefix in TRANSFORMER)
    ]
    normed = any(name.endswith("joint_blocks.0.x_block.attn.ln_q.weight") for name in shapes)
    return {
        "num_layers": layers,
        "num_attention_heads": width // 64,
        "attention_head_dim": 64,
        "caption_projection_dim": width,
        "in_channels": channels,
        "out_channels": channels,
        "joint_attention_dim": _sides(shapes, "context_embedder.weight")[1],
        "pooled_projection_dim": _sides(shapes, "y_embedder.mlp.0.weight")[1],
        "pos_embed_max_size": math.isqrt(_sides(shapes, "pos_embed")[1]),
        "qk_norm": "rms_norm" if normed else None,
        **({"dual_attention_layers": doubled} if doubled else {}),
    }


def _flux_config(shapes: Shapes) -> dict[str, Any]:
    """Heads are 128 wide in all published models."""
    width, channels = _sides(shapes, "img_in.weight")
    return {
        "num_layers": _count(shapes, "double_blocks.#.img_attn.qkv.weight"),
        "num_single_layers": _count(shapes, "single_blocks.#.linear1.weight"),
        "num_attention_heads": width // 128,
        "in_channels": channels,
        "joint_attention_dim": _sides(shapes, "txt_in.weight")[1],
        "pooled_projection_dim": _sides(shapes, "vector_in.in_layer.weight")[1],
        "guidance_embeds": any(name.endswith("guidance_in.in_layer.weight") for name in shapes),
    }
