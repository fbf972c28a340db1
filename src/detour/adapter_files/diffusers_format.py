"""diffusers' own format: dotted names in one file, alphas in a JSON text of the metadata."""

import json
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from detour.adapter_files.assemble import Factors, layer_from
from detour.adapter_files.kohya import unknown_key
from detour.adapter_files.lora_config import Scales, read_scales, to_config
from detour.adapter_files.names import is_layer_path
from detour.adapters.adapter import PARTS, Adapter, LoraLayer, part_of, path_of
from detour.adapters.places import LEGACY_TEXT_PREFIX
from detour.errors import AdapterError

CONFIG_KEY = "lora_adapter_metadata"
"""Metadata key; without it diffusers takes alpha = rank, which changes the adapter (diffusers#6087)."""

_KEY = re.compile(
    r"(?:(?P<part>unet|text_encoder|text_encoder_2)\.)?(?P<path>[\w.]+?)"
    r"(?:\.(?:lora|lora_linear_layer)\.(?P<new>down|up)\.weight"
    r"|\.lora_(?P<peft>[AB])(?:\.default)?\.weight"
    r"|\.processor\.(?P<old>to_q|to_k|to_v|to_out)_lora\.(?P<old_kind>down|up)\.weight"
    r"|\.(?P<alpha>alpha))"
)


def to_diffusers(adapter: Adapter, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by diffusers' names, and the metadata that carries rank and alpha."""
    tensors: dict[str, Tensor] = {}
    config: dict[str, Any] = {}
    for key, layer in adapter.layers.items():
        name = _written(key)
        tensors[f"{name}.lora_A.weight"] = layer.down.to(dtype)
        tensors[f"{name}.lora_B.weight"] = layer.up.to(dtype)
    for part in adapter.parts:
        mine = {path_of(key): layer for key, layer in adapter.layers.items() if part_of(key) == part}
        config |= {f"{part}.{name}": value for name, value in to_config(mine).items()}
    return tensors, {"format": "pt", CONFIG_KEY: json.dumps(config, sort_keys=True)}


def _written(key: str) -> str:
    """Text encoders are written as files always had them, with ``text_model.``."""
    part, path = part_of(key), path_of(key)
    if part == "unet" or path == "text_projection":
        return key
    return f"{part}.{LEGACY_TEXT_PREFIX}{path}"


def from_diffusers(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, where: str
) -> dict[str, LoraLayer]:
    """Layers by key. The scale comes from the config in the metadata, else from alpha tensors, else it is 1.

    Raises:
        AdapterError: a name that is not known, or a layer that is not whole.
    """
    scales = _scales(metadata, where)
    layers = {}
    for key, parts in group(tensors, where=where).items():
        own = scales.get(part_of(key))
        if own is not None and parts.alpha is None and parts.down is not None and parts.down.ndim > 0:
            parts.alpha = own.alpha_of(path_of(key), int(parts.down.shape[0]))
        layers[key] = layer_from(parts, where=f"{where}: '{key}'")
    return layers


def group(tensors: Mapping[str, Tensor], *, where: str) -> dict[str, Factors]:
    """Tensors of each layer, from any of the dotted namings that diffusers and PEFT have had.

    Raises:
        AdapterError: a name that is not known, or one that stands there under two namings.
    """
    factors: dict[str, Factors] = {}
    for name, tensor in tensors.items():
        key, kind = _parse(name)
        if key is None:
            raise unknown_key(name, where)
        mine = factors.setdefault(key, Factors())
        if mine.has(kind):
            raise AdapterError(f"{where}: '{key}' stands there twice, under different names.")
        mine.put(kind, tensor, where=where)
    return factors


def _parse(name: str) -> tuple[str | None, str]:
    match = _KEY.fullmatch(name) if len(name) < 300 else None
    if match is None:
        return None, ""
    path = match["path"]
    if match["old"]:
        path += "." + ("to_out.0" if match["old"] == "to_out" else match["old"])
    path = path.removeprefix(LEGACY_TEXT_PREFIX)
    part = match["part"] or ("unet" if is_layer_path("unet", path) else "text_encoder")
    if not is_layer_path(part, path):
        return None, ""
    kind = match["new"] or match["old_kind"] or {"A": "down", "B": "up"}.get(match["peft"] or "", "alpha")
    return f"{part}.{path}", kind


def _scales(metadata: Mapping[str, str], where: str) -> dict[str, Scales]:
    if CONFIG_KEY not in metadata:
        return {}
    try:
        config = json.loads(metadata[CONFIG_KEY])
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{where}: its {CONFIG_KEY} is not valid JSON. Fetch the file again.") from error
    if not isinstance(config, dict):
        raise AdapterError(f"{where}: its {CONFIG_KEY} is a {type(config).__name__}, expected a table.")
    scales = {}
    for part in PARTS:
        mine = {
            key.removeprefix(f"{part}."): value for key, value in config.items() if key.startswith(f"{part}.")
        }
        if mine:
            scales[part] = read_scales(mine, where=where)
    return scales
