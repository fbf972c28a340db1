"""The format that most tools load: flat names, ``lora_down``, ``lora_up`` and ``alpha`` for every layer.

LoHa, LoKr and DoRA are named in it as LyCORIS does.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from detour.adapter_files.assemble import LOHA, LOKR, MAGNITUDE, Place, gather, layers_from
from detour.adapter_files.limits import DEFAULT_LIMITS, Limits
from detour.adapter_files.names import kohya_key, layer_key
from detour.adapter_files.unread import Unread
from detour.adapters.adapter import Adapter
from detour.adapters.layers import DoraLayer, Layer, LoraLayer
from detour.adapters.lycoris_layers import LokrLayer
from detour.bases.families import Family
from detour.errors import AdapterError

_SUFFIXES = {
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "lora_mid.weight": "mid",
    "alpha": "alpha",
    "dora_scale": MAGNITUDE,
    **{name: name for name in (*LOHA, *LOKR)},
}
_LONGEST_NAME = 300


def to_kohya(adapter: Adapter, family: Family, dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors by kohya's names. ``alpha`` is written for every layer, in float32: without it tools take the
    rank.

    Raises:
        AdapterError: a layer that the format has no name for.
    """
    tensors: dict[str, Tensor] = {}
    for key, layer in adapter.layers.items():
        name = kohya_key(key, family=family.name, text_prefixes=family.kohya_text_prefixes)
        if f"{name}.alpha" in tensors:
            raise AdapterError(
                f"'{key}' has the same kohya name as another layer ({name}). Save it as diffusers."
            )
        for suffix, tensor in _written(key, layer).items():
            tensors[f"{name}.{suffix}"] = tensor.to(dtype)
        tensors[f"{name}.alpha"] = torch.tensor(float(layer.alpha), dtype=torch.float32)
    return tensors


def _written(key: str, layer: Layer) -> dict[str, Tensor]:
    """Suffix → tensor of one layer."""
    if isinstance(layer, LoraLayer):
        return {"lora_down.weight": layer.down, "lora_up.weight": layer.up}
    if isinstance(layer, DoraLayer):
        if not isinstance(layer.change, LoraLayer):
            raise AdapterError(
                f"'{key}' is a DoRA around {layer.change.kind}, which is read and used but not written."
            )
        column = (-1, *[1] * (layer.change.down.ndim - 1))  # LyCORIS: one row for each output
        return {**_written(key, layer.change), "dora_scale": layer.magnitude.reshape(column)}
    tensors = dict(layer.tensors)
    if isinstance(layer, LokrLayer):
        if (
            layer.w1 is not None and layer.is_whole
        ):  # other tools scale two whole matrices by 1, whatever alpha
            tensors["w1"] = layer.w1 * (layer.alpha / layer.rank)
        return {f"lokr_{name}": tensor for name, tensor in tensors.items()}
    return {f"hada_{name}": tensor for name, tensor in tensors.items()}


def from_kohya(
    tensors: Mapping[str, Tensor], *, limits: Limits = DEFAULT_LIMITS, unread: Unread
) -> dict[str, Layer]:
    """Layers by key; a layer without ``alpha`` has scale 1.

    Raises:
        AdapterError: a name that is not known, or a layer that is not whole.
    """
    return layers_from(gather(tensors, _parse, unknown_key, unread), limits, unread)


def _parse(name: str) -> Place:
    if len(name) > _LONGEST_NAME:
        return None, None
    module, _, suffix = name.partition(".")
    return layer_key(module), _SUFFIXES.get(suffix)


def unknown_key(name: str, where: str) -> AdapterError:
    """The error for a tensor that no format has a place for, with the reason where it is a known one."""
    shown = "".join(sign if sign.isprintable() else "?" for sign in name[:120])
    is_layer = len(name) <= _LONGEST_NAME and layer_key(name.partition(".")[0]) is not None
    reason = next(
        (text for mark, text in _KNOWN_OTHERS.items() if mark in name),
        "no algorithm known here has such a tensor" if is_layer else "it is no layer of SD 1, SD 2 or SDXL",
    )
    return AdapterError(f"{where}: '{shown}' cannot be read: {reason}. Use a LoRA for one of these families.")


_KNOWN_OTHERS = {
    "oft_": "OFT is not supported",
    "lora_unet_double_blocks": "Flux is not a family known here",
    "lora_unet_single_blocks": "Flux is not a family known here",
    "transformer.": "transformer models (Flux, SD 3) are not a family known here",
    "lora_transformer": "transformer models (Flux, SD 3) are not a family known here",
    "emb_params": "a textual inversion is not an adapter",
    "model.diffusion_model": "it is a whole model, not an adapter",
    ".diff": "whole differences of weights and biases are not supported",
    "_norm": "changes of norms are not supported",
}
