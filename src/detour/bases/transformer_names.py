"""Where the layers of Flux and SD 3 stand in the original code, under whose names kohya and ComfyUI keep them.

The original code has one matrix where diffusers has several (q, k and v; in Flux's single blocks also the way into
the MLP), and it orders the halves of the last modulations the other way round. The tables say which.

Source: the module names of Black Forest Labs' flux and of Stability AI's MMDiT, as kohya's ``lora_flux`` and
``lora_sd3`` flatten them and ComfyUI looks them up.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

TransformerFamily = str
"""``"flux"`` or ``"sd3"``."""

_BLOCK = re.compile(
    r"(?P<kind>(?:double|single|joint)_blocks|(?:single_)?transformer_blocks)[._](?P<index>\d{1,3})[._]"
)


def _qkv(block: str, *, added: bool = False, attention: str = "attn") -> tuple[str, ...]:
    names = ("add_q_proj", "add_k_proj", "add_v_proj") if added else ("to_q", "to_k", "to_v")
    return tuple(f"{block}.#.{attention}.{name}" for name in names)


_EMBEDDERS = (
    "time_text_embed.timestep_embedder",
    "time_text_embed.text_embedder",
    "time_text_embed.guidance_embedder",
)
_FINAL = {"final_layer.linear": ("proj_out",), "final_layer.adaLN_modulation.1": ("norm_out.linear",)}
_T = "transformer_blocks"

_FLUX: Mapping[str, tuple[str, ...]] = {
    "double_blocks.#.img_attn.qkv": _qkv(_T),
    "double_blocks.#.txt_attn.qkv": _qkv(_T, added=True),
    "double_blocks.#.img_attn.proj": (f"{_T}.#.attn.to_out.0",),
    "double_blocks.#.txt_attn.proj": (f"{_T}.#.attn.to_add_out",),
    "double_blocks.#.img_mlp.0": (f"{_T}.#.ff.net.0.proj",),
    "double_blocks.#.img_mlp.2": (f"{_T}.#.ff.net.2",),
    "double_blocks.#.txt_mlp.0": (f"{_T}.#.ff_context.net.0.proj",),
    "double_blocks.#.txt_mlp.2": (f"{_T}.#.ff_context.net.2",),
    "double_blocks.#.img_mod.lin": (f"{_T}.#.norm1.linear",),
    "double_blocks.#.txt_mod.lin": (f"{_T}.#.norm1_context.linear",),
    "single_blocks.#.linear1": (*_qkv("single_transformer_blocks"), "single_transformer_blocks.#.proj_mlp"),
    "single_blocks.#.linear2": ("single_transformer_blocks.#.proj_out",),
    "single_blocks.#.modulation.lin": ("single_transformer_blocks.#.norm.linear",),
    "img_in": ("x_embedder",),
    "txt_in": ("context_embedder",),
    **{
        f"{ours}.{layer}": (f"{embedder}.{theirs}",)
        for ours, embedder in zip(("time_in", "vector_in", "guidance_in"), _EMBEDDERS, strict=True)
        for layer, theirs in (("in_layer", "linear_1"), ("out_layer", "linear_2"))
    },
    **_FINAL,
}

_SD3: Mapping[str, tuple[str, ...]] = {
    "joint_blocks.#.x_block.attn.qkv": _qkv(_T),
    "joint_blocks.#.x_block.attn2.qkv": _qkv(_T, attention="attn2"),
    "joint_blocks.#.context_block.attn.qkv": _qkv(_T, added=True),
    "joint_blocks.#.x_block.attn.proj": (f"{_T}.#.attn.to_out.0",),
    "joint_blocks.#.x_block.attn2.proj": (f"{_T}.#.attn2.to_out.0",),
    "joint_blocks.#.context_block.attn.proj": (f"{_T}.#.attn.to_add_out",),
    "joint_blocks.#.x_block.mlp.fc1": (f"{_T}.#.ff.net.0.proj",),
    "joint_blocks.#.x_block.mlp.fc2": (f"{_T}.#.ff.net.2",),
    "joint_blocks.#.context_block.mlp.fc1": (f"{_T}.#.ff_context.net.0.proj",),
    "joint_blocks.#.context_block.mlp.fc2": (f"{_T}.#.ff_context.net.2",),
    "joint_blocks.#.x_block.adaLN_modulation.1": (f"{_T}.#.norm1.linear",),
    "joint_blocks.#.context_block.adaLN_modulation.1": (f"{_T}.#.norm1_context.linear",),
    "x_embedder.proj": ("pos_embed.proj",),
    "context_embedder": ("context_embedder",),
    **{
        f"{ours}.mlp.{layer}": (f"{embedder}.{theirs}",)
        for ours, embedder in zip(("t_embedder", "y_embedder"), _EMBEDDERS[:2], strict=True)
        for layer, theirs in (("0", "linear_1"), ("2", "linear_2"))
    },
    **_FINAL,
}

TABLES: Mapping[TransformerFamily, Mapping[str, tuple[str, ...]]] = {"flux": _FLUX, "sd3": _SD3}
"""Family → original name → the diffusers paths that it is, in order; ``#`` is a block's index."""

_PIECES = {name: paths for table in TABLES.values() for name, paths in table.items()} | {
    "single_blocks.#.linear1.qkv": _qkv("single_transformer_blocks")
}
"""Original name → diffusers paths. The last one is of XLabs' files alone, which change q, k and v of ``linear1``."""
_FLAT = {original.replace(".", "_"): original for table in TABLES.values() for original in table}
_FLAT_PATHS = {
    path.replace(".", "_"): path for table in TABLES.values() for paths in table.values() for path in paths
}
_PLACES = {
    family: {path: (original, index) for original, paths in table.items() for index, path in enumerate(paths)}
    for family, table in TABLES.items()
}


@dataclass(frozen=True, kw_only=True)
class OriginalPlace:
    """Where a diffusers layer stands in the original code.

    Attributes:
        name: e.g. ``"double_blocks.0.img_attn.qkv"``.
        paths: every diffusers path that this matrix is, in the order of its rows.
        index: which of them the layer is.
    """

    name: str
    paths: tuple[str, ...]
    index: int


def place_of(family: TransformerFamily, path: str) -> OriginalPlace | None:
    """The place of a diffusers path in the family's original code; None where it has none."""
    template, number = _template(path)
    found = _PLACES[family].get(template)
    if found is None:
        return None
    original, index = found
    paths = TABLES[family][original]
    return OriginalPlace(
        name=original.replace("#", number),
        paths=tuple(one.replace("#", number) for one in paths),
        index=index,
    )


def pieces_of_original(name: str) -> tuple[str, ...] | None:
    """``"double_blocks.0.img_attn.qkv"`` → the three diffusers paths; None for what is no original name."""
    template, number = _template(name)
    paths = _PIECES.get(template)
    return None if paths is None else tuple(path.replace("#", number) for path in paths)


def is_transformer_path(path: str) -> bool:
    """Whether a transformer of diffusers, Flux's or SD 3's, can have a layer at this path."""
    template, _ = _template(path)
    return any(template in places for places in _PLACES.values())


def original_from_flat(flat: str) -> str | None:
    """``"double_blocks_0_img_attn_qkv"`` → ``"double_blocks.0.img_attn.qkv"``."""
    return _unflattened(flat, _FLAT)


def path_from_flat(flat: str) -> str | None:
    """``"transformer_blocks_0_attn_to_q"`` → ``"transformer_blocks.0.attn.to_q"``."""
    return _unflattened(flat, _FLAT_PATHS)


def halves_change_places(name: str, in_features: int, out_features: int) -> bool:
    """Whether the original code has (shift, scale) where diffusers has (scale, shift).

    The final modulation has; so has that of SD 3's last context block, which nothing follows: it makes two vectors
    where the others make six.
    """
    if name == "final_layer.adaLN_modulation.1":
        return True
    return name.endswith("context_block.adaLN_modulation.1") and out_features == 2 * in_features


def family_of_names(names: Iterable[str]) -> TransformerFamily | None:
    """Flux or SD 3, from names of layers, original or diffusers'; None where they have none of their own."""
    for name in names:
        if name.startswith(("double_blocks.", "single_blocks.", "single_transformer_blocks.")):
            return "flux"
        if name.startswith("joint_blocks.") or ".attn2." in name:
            return "sd3"
    return None


def _template(name: str) -> tuple[str, str]:
    """``"double_blocks.7.img_attn.qkv"`` → (``"double_blocks.#.img_attn.qkv"``, ``"7"``)."""
    match = _BLOCK.match(name)
    if match is None:
        return name, ""
    start, end = match.span("index")
    return f"{name[:start]}#{name[end:]}", match["index"]


def _unflattened(flat: str, known: Mapping[str, str]) -> str | None:
    template, number = _template(flat)
    found = known.get(template)
    return None if found is None else found.replace("#", number)
