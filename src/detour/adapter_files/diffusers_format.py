"""diffusers' own format: dotted names in one file, alphas in a JSON text of the metadata."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from detour.adapter_files.assemble import LOHA, LOKR, MAGNITUDE, Factors, Place, gather, layers_from
from detour.adapter_files.kohya import MOST_WORDS_OF_A_TENSOR, unknown_key
from detour.adapter_files.limits import DEFAULT_LIMITS, Limits
from detour.adapter_files.lora_config import Scales, read_scales, to_config
from detour.adapter_files.names import is_layer_path
from detour.adapter_files.unread import Unread
from detour.adapters.adapter import PARTS, Adapter, part_of, path_of
from detour.adapters.layers import DoraLayer, Layer, LoraLayer
from detour.adapters.places import LEGACY_TEXT_PREFIX
from detour.errors import AdapterError
from detour.printing import printable
from detour.safetensors_header import unique_keys

CONFIG_KEY = "lora_adapter_metadata"
"""Metadata key; without it diffusers takes alpha = rank, which changes the adapter (diffusers#6087)."""

FOLDED = {"detour.rslora": "folded into alpha"}
"""Metadata of a file whose scale was alpha / √rank, which is alpha / rank here with another alpha."""

_KEY = re.compile(
    r"(?:(?P<part>unet|transformer|text_encoder|text_encoder_2|text_encoder_3)\.)?(?P<path>[\w.]+?)"
    r"(?:\.(?:lora|lora_linear_layer)\.(?P<new>down|up)\.weight"
    r"|\.lora_(?P<peft>[AB])(?:\.default)?\.weight"
    r"|\.lora_(?P<flat>down|up)\.weight"
    r"|\.processor\.(?P<old>to_q|to_k|to_v|to_out)_lora\.(?P<old_kind>down|up)\.weight"
    r"|\.(?P<magnitude>lora_magnitude_vector)(?:\.default)?(?:\.weight)?"
    rf"|\.(?P<other>{'|'.join((*LOHA, *LOKR))})(?:\.default)?"
    r"|\.(?P<alpha>alpha))"
)


def to_diffusers(adapter: Adapter, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by diffusers' names, and the metadata that carries rank and alpha.

    Alpha is the rank in every layer, and the scale stands in the factors: ComfyUI reads such files without their
    metadata, and so do older diffusers.

    Raises:
        AdapterError: neither plain LoRA nor DoRA in every layer of a part.
    """
    tensors: dict[str, Tensor] = {}
    config: dict[str, Any] = {}
    for part in adapter.parts:
        mine = {path_of(key): layer for key, layer in adapter.layers.items() if part_of(key) == part}
        has_magnitudes = require_one_kind(part, mine)
        mine = {path: with_scale_in_factors(layer) for path, layer in mine.items()}
        for path, layer in mine.items():
            name = _written(f"{part}.{path}")
            tensors |= {f"{name}.{suffix}": tensor.to(dtype) for suffix, tensor in factors_of(layer).items()}
        settings = to_config(mine) | ({"use_dora": True} if has_magnitudes else {})
        config |= {f"{part}.{name}": value for name, value in settings.items()}
    return tensors, {"format": "pt", CONFIG_KEY: json.dumps(config, sort_keys=True)}


def with_scale_in_factors(layer: Layer) -> Layer:
    """Change alpha to the rank without changing ΔW: alpha / rank is multiplied into ``up``, in the layer's own
    precision.

    Exact where alpha / rank is a power of two (:func:`fold_is_exact`), else rounded once more, by at most 2⁻²⁴.

    Args:
        layer: LoRA, or DoRA around it; others are returned as they are.
    """
    if isinstance(layer, DoraLayer):
        return DoraLayer(change=with_scale_in_factors(layer.change), magnitude=layer.magnitude)
    if not isinstance(layer, LoraLayer) or layer.alpha == layer.rank:
        return layer
    return LoraLayer(down=layer.down, up=layer.up * layer.scale, alpha=float(layer.rank))


def fold_is_exact(layer: Layer) -> bool:
    """Whether the scale is zero or a power of two, so that multiplying by it rounds nothing."""
    return layer.alpha == 0.0 or abs(math.frexp(layer.alpha / layer.rank)[0]) == 0.5


def require_one_kind(part: str, layers: Mapping[str, Layer]) -> bool:
    """Whether the layers are DoRA: PEFT, which loads both formats, knows it of all layers or of none.

    Raises:
        AdapterError: another kind, or DoRA in some layers only.
    """
    plain = {path for path, layer in layers.items() if isinstance(layer, LoraLayer)}
    doras = {
        path
        for path, layer in layers.items()
        if isinstance(layer, DoraLayer) and isinstance(layer.change, LoraLayer)
    }
    for path, layer in layers.items():
        if path not in plain | doras:
            kind = layer.kind if not isinstance(layer, DoraLayer) else f"DoRA around {layer.change.kind}"
            raise AdapterError(
                f"'{part}.{path}' is {kind}, which this format cannot hold. Save it as kohya instead."
            )
    if plain and doras:
        raise AdapterError(
            f"{len(doras)} of {len(layers)} layers of the {part} are DoRA and the others are not, which this format "
            "cannot say. Save it as kohya instead."
        )
    return bool(doras)


def factors_of(layer: Layer) -> dict[str, Tensor]:
    """Suffix → tensor as PEFT names and shapes them; of LoRA and DoRA."""
    if isinstance(layer, DoraLayer):
        is_conv = layer.tensors["down"].ndim == 4
        magnitude = layer.magnitude.reshape(1, -1, 1, 1) if is_conv else layer.magnitude
        return {**factors_of(layer.change), "lora_magnitude_vector": magnitude}
    return {"lora_A.weight": layer.tensors["down"], "lora_B.weight": layer.tensors["up"]}


def _written(key: str) -> str:
    """Text encoders are written as files always had them, with ``text_model.``."""
    part, path = part_of(key), path_of(key)
    if not path.startswith("encoder.layers."):
        return key
    return f"{part}.{LEGACY_TEXT_PREFIX}{path}"


def from_diffusers(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    *,
    limits: Limits = DEFAULT_LIMITS,
    unread: Unread,
) -> tuple[dict[str, Layer], dict[str, str]]:
    """Layers by key, and what there is to say of them. The scale comes from the config in the metadata, else from
    alpha tensors, else it is 1.

    Raises:
        AdapterError: a name that is not known, or a layer that is not whole.
    """
    scales = scales_of(metadata, unread.where)
    folded = FOLDED if any(own.rank_stabilised for own in scales.values()) else {}
    return dotted_layers(tensors, scales, limits=limits, unread=unread), dict(folded)


def dotted_layers(
    tensors: Mapping[str, Tensor], scales: Mapping[str, Scales], *, limits: Limits, unread: Unread
) -> dict[str, Layer]:
    """Layers by key, of tensors in any dotted naming; some of a file's are enough, as long as layers are whole.

    Args:
        tensors: by name.
        scales: part → what the config says; parts without one keep their alpha tensors.
        limits: of rank and size.
        unread: takes what cannot be read.

    Raises:
        AdapterError: a name that is not known, or a layer that is not whole.
    """
    groups = group(tensors, unread)
    for key, parts in groups.items():
        own = scales.get(part_of(key))
        if own is not None:
            apply_scales(parts, own, key, unread)
    return layers_from(groups, limits, unread)


def group(tensors: Mapping[str, Tensor], unread: Unread) -> dict[str, Factors]:
    """Tensors of each layer, from any of the dotted namings that diffusers and PEFT have had.

    Raises:
        AdapterError: a name that is not known, or one that stands there under two namings.
    """
    factors = gather(tensors, _parse, unknown_key, unread)
    for parts in factors.values():
        magnitude = parts.found.get(MAGNITUDE)
        if magnitude is not None and magnitude.ndim == 4 and magnitude.shape[0] == 1:
            parts.found[MAGNITUDE] = magnitude.flatten()  # PEFT's shape of a convolution's: (1, out, 1, 1)
    return factors


def apply_scales(parts: Factors, scales: Scales, key: str, unread: Unread) -> None:
    """Give the layer the alpha of the config, where it has none of its own.

    Raises:
        AdapterError: the config says DoRA, and the layer has no magnitudes; or another rank than the factors have.
    """
    if scales.has_magnitudes and MAGNITUDE not in parts.found:
        parts.spoiled = True
        unread.refuse(
            AdapterError(
                f"{unread.where}: '{key}' has no magnitudes, which its use_dora asks for. Fetch it again."
            )
        )
    _require_rank(parts, scales, key, unread)
    if parts.alpha is None:
        path = path_of(key)
        parts.config_rank = scales.rank_of(path)
        parts.alpha = scales.alpha_of(path, parts.rank or parts.config_rank)


def _require_rank(parts: Factors, scales: Scales, key: str, unread: Unread) -> None:
    """A config and factors of different ranks: nobody can tell which of both the scale goes with."""
    said = scales.rank_of(path_of(key))
    if scales.says_rank and parts.rank is not None and parts.rank != said:
        parts.spoiled = True
        unread.refuse(
            AdapterError(
                f"{unread.where}: '{key}' has rank {parts.rank}, and the config says {said}, so that its scale is not "
                "known. Fetch config and weights again, both from one place."
            )
        )


def _parse(name: str) -> Place:
    if len(name) >= 300:
        return None, None
    match = _KEY.fullmatch(name)
    if match is None:
        return _layer_of(name), None
    path = match["path"]
    if match["old"]:
        path += "." + ("to_out.0" if match["old"] == "to_out" else match["old"])
    path = path.removeprefix(LEGACY_TEXT_PREFIX)
    part = match["part"] or next((one for one in PARTS if is_layer_path(one, path)), "unet")
    if not is_layer_path(part, path):
        return None, None
    kind = (
        match["new"]
        or match["flat"]
        or match["old_kind"]
        or match["other"]
        or {"A": "down", "B": "up"}.get(match["peft"] or "")
    )
    return f"{part}.{path}", kind or (MAGNITUDE if match["magnitude"] else "alpha")


_NAMED = re.compile(
    r"(?:(?P<part>unet|transformer|text_encoder|text_encoder_2|text_encoder_3)\.)?(?P<path>[\w.]+)"
)


def _layer_of(name: str) -> str | None:
    """The layer that a tensor of an unknown kind belongs to, e.g. of ``unet.conv_in.lora_B.bias``; None if there is
    none."""
    words = name.split(".")
    for cut in range(1, 1 + min(MOST_WORDS_OF_A_TENSOR, len(words) - 1)):
        match = _NAMED.fullmatch(".".join(words[:-cut]))
        path = "" if match is None else match["path"].removeprefix(LEGACY_TEXT_PREFIX)
        parts = PARTS if match is None or match["part"] is None else (match["part"],)
        part = next((one for one in parts if is_layer_path(one, path)), None)
        if part is not None:
            return f"{part}.{path}"
    return None


def scales_of(metadata: Mapping[str, str], where: str) -> dict[str, Scales]:
    """Part → scales, from the config in a file's metadata; empty where there is none.

    Raises:
        AdapterError: the config cannot be read.
    """
    if CONFIG_KEY not in metadata:
        return {}
    try:
        config = json.loads(metadata[CONFIG_KEY], object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        cause = printable(str(error), longest=120)
        raise AdapterError(
            f"{where}: its {CONFIG_KEY} is not valid JSON ({cause}). Fetch the file again."
        ) from error
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
