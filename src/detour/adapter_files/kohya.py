"""The format that most tools load: flat names, ``lora_down``, ``lora_up`` and ``alpha`` for every layer."""

from collections.abc import Mapping

import torch
from torch import Tensor

from detour.adapter_files.assemble import Factors, layer_from
from detour.adapter_files.names import kohya_key, layer_key
from detour.adapters.adapter import Adapter, LoraLayer
from detour.bases.families import Family
from detour.errors import AdapterError

_SUFFIXES = {
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "lora_mid.weight": "mid",
    "alpha": "alpha",
}


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
        tensors[f"{name}.lora_down.weight"] = layer.down.to(dtype)
        tensors[f"{name}.lora_up.weight"] = layer.up.to(dtype)
        tensors[f"{name}.alpha"] = torch.tensor(float(layer.alpha), dtype=torch.float32)
    return tensors


def from_kohya(tensors: Mapping[str, Tensor], *, where: str) -> dict[str, LoraLayer]:
    """Layers by key; a layer without ``alpha`` has scale 1.

    Raises:
        AdapterError: a name that is not known, or a layer that is not whole.
    """
    factors: dict[str, Factors] = {}
    for name, tensor in tensors.items():
        module, _, suffix = name.partition(".")
        key = layer_key(module)
        if suffix not in _SUFFIXES or key is None:
            raise unknown_key(name, where)
        mine = factors.setdefault(key, Factors())
        if mine.has(_SUFFIXES[suffix]):
            raise AdapterError(f"{where}: '{name}' names a layer that stands there under another name, too.")
        mine.put(_SUFFIXES[suffix], tensor, where=where)
    return {key: layer_from(parts, where=f"{where}: '{key}'") for key, parts in factors.items()}


def unknown_key(name: str, where: str) -> AdapterError:
    """The error for a tensor that no format has a place for, with the reason where it is a known one."""
    shown = "".join(sign if sign.isprintable() else "?" for sign in name[:120])
    reason = next(
        (text for mark, text in _KNOWN_OTHERS.items() if mark in name), "it is no layer of SD 1, SD 2 or SDXL"
    )
    return AdapterError(
        f"{where}: '{shown}' cannot be read: {reason}. Use a plain LoRA for one of these families."
    )


_KNOWN_OTHERS = {
    "hada_": "LoHa is not supported",
    "lokr_": "LoKr is not supported",
    "dora_scale": "DoRA is not supported",
    "lora_magnitude_vector": "DoRA is not supported",
    "oft_": "OFT is not supported",
    "lora_unet_double_blocks": "Flux is not a family known here",
    "lora_unet_single_blocks": "Flux is not a family known here",
    "transformer.": "transformer models (Flux, SD 3) are not a family known here",
    "emb_params": "a textual inversion is not an adapter",
    "model.diffusion_model": "it is a whole model, not an adapter",
}
