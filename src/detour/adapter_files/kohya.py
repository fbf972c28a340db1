"""The format that most tools load: flat names, ``lora_down``, ``lora_up`` and ``alpha`` for every layer.

LoHa, LoKr and DoRA are named in it as LyCORIS does.
"""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from detour.adapter_files.assemble import LOHA, LOKR, MAGNITUDE, Place, gather, layers_from
from detour.adapter_files.fused import join_layers, split_layer
from detour.adapter_files.limits import DEFAULT_LIMITS, Limits
from detour.adapter_files.names import (
    DOTTED_PREFIXES,
    KOHYA_PREFIXES,
    flat_name,
    is_convolution,
    is_t5_path,
    kohya_key,
    layer_key,
)
from detour.adapter_files.unread import Unread
from detour.adapters.adapter import Adapter, part_of, path_of
from detour.adapters.layers import DoraLayer, Layer, LoraLayer
from detour.adapters.lycoris_layers import LokrLayer
from detour.bases.families import Family
from detour.bases.transformer_names import TABLES, family_of_names, pieces_of_original
from detour.errors import AdapterError
from detour.printing import printable

_SUFFIXES = {
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "lora_mid.weight": "mid",
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "alpha": "alpha",
    "dora_scale": MAGNITUDE,
    **{name: name for name in (*LOHA, *LOKR)},
}
_LONGEST_NAME = 300

MOST_WORDS_OF_A_TENSOR = 3
"""``lora_A.default.weight``: words, parted by dots, of a tensor's name behind that of its layer."""

_XLABS = re.compile(
    r"(?:diffusion_model\.)?(?:double_blocks\.(?P<double>\d{1,3})\.processor\.(?P<layer>qkv|proj)_lora(?P<stream>[12])"
    r"|single_blocks\.(?P<single>\d{1,3})\.processor\.(?P<part>qkv|proj)_lora)\.(?P<kind>down|up)\.weight"
)
"""XLabs' own names in Flux: 1 is the picture's stream, 2 the text's, single blocks have one; the scale is 1.

Source: ``_convert_xlabs_flux_lora_to_diffusers``, diffusers 0.42.1.
"""


def to_kohya(
    adapter: Adapter, family: Family, dtype: torch.dtype, *, fused: bool = True
) -> dict[str, Tensor]:
    """Tensors by kohya's names. ``alpha`` is written for every layer, in float32: without it tools take the
    rank.

    Args:
        adapter: at least one layer.
        family: whose names.
        dtype: of the factors.
        fused: join a transformer's layers to the original code's; otherwise they keep diffusers' paths, flattened
            behind ``lycoris_``, which holds what cannot be joined.

    Raises:
        AdapterError: a layer that the format has no name for.
    """
    tensors: dict[str, Tensor] = {}
    layers = _as_original(adapter, family) if fused else adapter.layers
    for key, layer in layers.items():
        name = (
            flat_name(key)
            if not fused and part_of(key) == "transformer"
            else kohya_key(key, family=family.name, text_prefixes=family.kohya_text_prefixes)
        )
        if f"{name}.alpha" in tensors:
            raise AdapterError(
                f"'{key}' has the same kohya name as another layer ({name}). Save it as diffusers."
            )
        convolution = is_convolution(key, family=family.name)
        for suffix, tensor in _written(layer, convolution=convolution).items():
            tensors[f"{name}.{suffix}"] = tensor.to(dtype)
        tensors[f"{name}.alpha"] = torch.tensor(float(layer.alpha), dtype=torch.float32)
    return tensors


def _as_original(adapter: Adapter, family: Family) -> dict[str, Layer]:
    """The layers by key, those of a transformer joined to the original code's."""
    denoiser = "transformer" if family.name in TABLES else "unet"
    other = next(
        (key for key in adapter.layers if part_of(key) in {"transformer", "unet"} - {denoiser}), None
    )
    if other is not None:
        raise AdapterError(
            f"'{other}' is no layer of {family.title}, which has a {denoiser}. Save it for the family it was made for."
        )
    mine = {path_of(key): layer for key, layer in adapter.layers.items() if part_of(key) == "transformer"}
    others = {key: layer for key, layer in adapter.layers.items() if part_of(key) != "transformer"}
    if not mine:
        return others
    return {f"transformer.{name}": layer for name, layer in join_layers(mine, family.name).items()} | others


def grown_ranks(adapter: Adapter, family: Family) -> dict[str, tuple[int, int]]:
    """Layers of a kohya file that stand for several → (the largest rank of those, its own), where it is more.

    Layers with factors of their own keep their change exactly only when their ranks add up.
    """
    mine = {path_of(key): layer for key, layer in adapter.layers.items() if part_of(key) == "transformer"}
    if not mine:
        return {}
    found = {}
    for name, layer in join_layers(mine, family.name).items():
        largest = max(mine[path].rank for path in pieces_of_original(name) or () if path in mine)
        if layer.rank > largest:
            found[name] = (largest, layer.rank)
    return found


DORA_ELSEWHERE = (
    "DoRA in a kohya file is drawn by other formulas in A1111 and ComfyUI, and without its magnitudes by sd-scripts: "
    "their pictures are wrong. Exact everywhere: detour merge BASE --lora FILE; detour extract BASE MERGED makes a "
    "LoRA of that."
)
"""What to know of a kohya file with DoRA layers. A1111 (``network.py``) takes the norms over the inputs, ComfyUI
(``weight_decompose``) those of the base's own weight, and sd-scripts reads no ``dora_scale``; the paper, PEFT, LyCORIS
and this package divide by the norm of each output of the changed weight."""


def _written(layer: Layer, *, convolution: bool) -> dict[str, Tensor]:
    """Suffix → tensor of one layer; ``convolution`` is asked of those whose factors do not tell."""
    if isinstance(layer, LoraLayer):
        return {"lora_down.weight": layer.down, "lora_up.weight": layer.up}
    if isinstance(layer, DoraLayer):
        # LyCORIS: one row for each output, as many sizes as the weight has
        is_conv = layer.change.tensors["down"].ndim == 4 if layer.change.kind == "lora" else convolution
        column = (-1, 1, 1, 1) if is_conv else (-1, 1)
        change = _written(layer.change, convolution=convolution)
        return {**change, "dora_scale": layer.magnitude.reshape(column)}
    tensors = dict(layer.tensors)
    if isinstance(layer, LokrLayer):
        if (
            layer.w1 is not None and layer.is_whole
        ):  # other tools scale two whole matrices by 1, whatever alpha
            tensors["w1"] = layer.w1 * (layer.alpha / layer.rank)
        return {f"lokr_{name}": tensor for name, tensor in tensors.items()}
    return {f"hada_{name}": tensor for name, tensor in tensors.items()}


def from_kohya(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    *,
    limits: Limits = DEFAULT_LIMITS,
    unread: Unread,
) -> tuple[dict[str, Layer], dict[str, str]]:
    """Layers by key, and the family of a transformer; a layer without ``alpha`` has scale 1.

    Raises:
        AdapterError: a name that is not known, or a layer that is not whole.
    """
    layers = layers_from(gather(tensors, _parse, unknown_key, unread), limits, unread)
    if not any(part_of(key) in ("transformer", "text_encoder_3") for key in layers):
        return layers, {}
    family = family_of_names(path_of(key) for key in layers) or _family_said(metadata)
    split: dict[str, Layer] = {}
    for key, layer in sorted(layers.items()):  # tensors come in another order each time
        try:
            for found, part in _in_diffusers(key, layer, family).items():
                if found in split:
                    raise AdapterError(f"'{found}' stands there twice, under different names.")
                split[found] = part
        except AdapterError as error:
            unread.refuse(AdapterError(f"{unread.where}: {error}"))
    return split, {} if family is None else {"detour.family": family}


def _in_diffusers(key: str, layer: Layer, family: str | None) -> dict[str, Layer]:
    part, path = part_of(key), path_of(key)
    if part == "transformer" and pieces_of_original(path) is not None:
        try:
            return {f"transformer.{found}": one for found, one in split_layer(path, layer).items()}
        except AdapterError as error:
            raise AdapterError(f"'{path}': {error}") from error
    if part == "text_encoder_3" and is_t5_path(path) and family != "sd3":
        if family is None:
            raise AdapterError(
                f"'{key}' is of a T5, and nothing says whether of Flux or of SD 3. Use a file that does."
            )
        return {f"text_encoder_2.{path}": layer}
    return {key: layer}


def _family_said(metadata: Mapping[str, str]) -> str | None:
    """What the file says of itself, for layers that both families have."""
    for key in ("detour.family", "ss_base_model_version", "modelspec.architecture"):
        text = metadata.get(key, "").lower()
        for family, mark in (("flux", "flux"), ("sd3", "sd3"), ("sd3", "stable-diffusion-3")):
            if text.startswith(mark):
                return family
    return None


def _parse(name: str) -> Place:
    if len(name) > _LONGEST_NAME:
        return None, None
    if (found := _XLABS.fullmatch(name)) is not None:
        return _xlabs_key(found), found["kind"]
    prefix = next((dotted for dotted in DOTTED_PREFIXES if name.startswith(dotted)), None)
    if prefix is None:
        module, _, suffix = name.partition(".")
        return layer_key(module), _SUFFIXES.get(suffix)
    words = name.removeprefix(prefix).split(".")
    for cut in range(
        1, 1 + min(MOST_WORDS_OF_A_TENSOR, len(words) - 1)
    ):  # the longest name that is a layer's
        key = layer_key(DOTTED_PREFIXES[prefix] + "_".join(words[:-cut]))
        if key is not None:
            return key, _SUFFIXES.get(".".join(words[-cut:]))
    return None, None


def _xlabs_key(found: re.Match[str]) -> str:
    if found["single"] is not None:
        layer = {"qkv": "linear1.qkv", "proj": "linear2"}[found["part"]]
        return f"transformer.single_blocks.{found['single']}.{layer}"
    stream = {"1": "img", "2": "txt"}[found["stream"]]
    return f"transformer.double_blocks.{found['double']}.{stream}_attn.{found['layer']}"


def is_kohya(names: Iterable[str]) -> bool:
    """Whether a file's tensors are named as kohya, or ComfyUI or XLabs in their own files, names them."""
    return any(name.startswith(KOHYA_PREFIXES) or _XLABS.fullmatch(name[:_LONGEST_NAME]) for name in names)


def unknown_key(name: str, where: str) -> AdapterError:
    """The error for a tensor that no format has a place for, with the cause where it is a known one."""
    is_layer = len(name) <= _LONGEST_NAME and layer_key(name.partition(".")[0]) is not None
    cause = next(
        (text for marks, text in _KNOWN_OTHERS if any(mark in f"{name}." for mark in marks)),
        "no algorithm known here has such a tensor" if is_layer else f"it is no layer of {_FAMILIES}",
    )
    shown = printable(name, longest=120)
    return AdapterError(f"{where}: '{shown}' cannot be read: {cause}. Use a LoRA for one of these families.")


_FAMILIES = "SD 1, SD 2, SDXL, SD 3 or Flux"
_KNOWN_OTHERS = (
    ((".processor.qkv_lora", ".processor.proj_lora"), "XLabs' names are known of Flux's blocks alone"),
    (("boft_",), "BOFT is not supported"),
    (("oft_blocks", "oft_diag", "oft_R", "oft_"), "OFT and BOFT are not supported"),
    (
        (".a1.weight.", ".a2.weight.", ".b1.weight.", ".b2.weight.", ".bm1.", ".bm2.", "glora_"),
        "GLoRA is not supported",
    ),
    (("ia3_l", ".on_input."), "IA³ is not supported"),
    ((".magnitude.",), "ai-toolkit's DoRA is not supported"),
    (("query_norm", "key_norm"), "Flux's control adapters change norms, which is not supported"),
    (
        ("token_embedding", "position_embedding", "lora_embedding_"),
        "changes of token embeddings are not supported",
    ),
    (("emb_params", "string_to_param"), "a textual inversion is not an adapter"),
    (
        ("model.diffusion_model", "first_stage_model", "cond_stage_model"),
        "it is a whole model, not an adapter",
    ),
    ((".diff_b.", ".bias."), "changes of biases are not supported"),
    ((".w_norm.", ".b_norm.", "_norm", ".norm", "layer_norm"), "changes of norms are not supported"),
    (
        (".diff.", ".set_weight.", ".reshape_weight."),
        "whole differences of weights and biases are not supported",
    ),
)
"""Marks in a tensor's name, of which one is enough → what it is."""
