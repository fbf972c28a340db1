"""PEFT's format: a folder of config and weights for each adapted model."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detour.adapter_files.container import dtype_of, read_file, refuse_link_out
from detour.adapter_files.diffusers_format import FOLDED, dotted_layers, factors_of, require_one_kind
from detour.adapter_files.limits import Limits
from detour.adapter_files.lora_config import Scales, read_scales, to_config
from detour.adapter_files.peft_lokr import lokr_config
from detour.adapter_files.pickled import read_tensors
from detour.adapter_files.unread import Unread
from detour.adapters.adapter import PARTS, Adapter, FileDtype, part_of, path_of
from detour.adapters.layers import Layer
from detour.adapters.lycoris_layers import LohaLayer, LokrLayer
from detour.errors import AdapterError
from detour.printing import printable
from detour.safetensors_header import unique_keys

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
PICKLED_NAME = "adapter_model.bin"
KEY_PREFIX = "base_model.model."
_MAX_CONFIG_BYTES = 1 << 20


def to_peft(adapter: Adapter, part: str, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and config of one part, as ``PeftModel.from_pretrained`` reads them: LoRA, DoRA, LoHa or LoKr.

    Raises:
        AdapterError: layers of several kinds, or of one that PEFT cannot be told of.
    """
    layers = {path_of(key): layer for key, layer in adapter.layers.items() if part_of(key) == part}
    if all(isinstance(layer, LokrLayer) for layer in layers.values()):
        special = lokr_config(part, layers)
        suffixes = {
            path: {f"lokr_{name}": tensor for name, tensor in layer.tensors.items()}
            for path, layer in layers.items()
        }
    elif all(isinstance(layer, LohaLayer) for layer in layers.values()):
        suffixes = {
            path: {f"hada_{name}": tensor for name, tensor in layer.tensors.items()}
            for path, layer in layers.items()
        }
        special = _loha_config(layers)
    else:
        special = _lora_config(layers, has_magnitudes=require_one_kind(part, layers))
        suffixes = {path: factors_of(layer) for path, layer in layers.items()}
    tensors = {
        f"{KEY_PREFIX}{path}.{suffix}": tensor.to(dtype)
        for path, mine in suffixes.items()
        for suffix, tensor in mine.items()
    }
    config = {
        "task_type": None,
        "base_model_name_or_path": adapter.metadata.get("detour.base"),
        "inference_mode": True,
        **special,
    }
    return tensors, dict(sorted(config.items()))


def _lora_config(layers: Mapping[str, Layer], *, has_magnitudes: bool) -> dict[str, Any]:
    fixed = {"peft_type": "LORA", "bias": "none", "lora_dropout": 0.0, "use_rslora": False}
    return {**fixed, "use_dora": has_magnitudes, **to_config(layers)}


def _loha_config(layers: Mapping[str, Layer]) -> dict[str, Any]:
    has_cores = any("t1" in layer.tensors for layer in layers.values())
    return {"peft_type": "LOHA", "use_effective_conv2d": has_cores, **to_config(layers, alpha_name="alpha")}


def is_peft_folder(folder: Path) -> bool:
    """Whether the folder, or one of its part folders, holds a PEFT adapter."""
    return bool(_part_folders(folder))


def from_peft(
    folder: Path, limits: Limits, *, unread: Unread, allow_pickle: bool = False
) -> tuple[dict[str, Layer], dict[str, str], FileDtype]:
    """Layers, metadata and precision of a PEFT folder, or of a folder with one for each part.

    Raises:
        AdapterError: a file is missing, broken, links out of the folder, or is of a kind that is not supported.
    """
    layers: dict[str, Layer] = {}
    metadata: dict[str, str] = {}
    dtypes: set[FileDtype] = set()
    for part in peft_parts(folder, limits):
        tensors, found = read_tensors(
            part.weights, limits, finite=not unread.allowed, allow_pickle=allow_pickle
        )
        mine = Unread(str(part.weights), allowed=unread.allowed)
        named = {part.dotted(name): tensor for name, tensor in tensors.items()}
        layers |= dotted_layers(named, part.scales, limits=limits, unread=mine)
        metadata |= found | part.said
        dtypes.add(dtype_of(tensors))
        unread.take(mine)
    return layers, metadata, dtypes.pop() if len(dtypes) == 1 else "fp32"


@dataclass(frozen=True, kw_only=True)
class PeftPart:
    """The adapter of one model in a PEFT folder.

    Attributes:
        prefix: ``"text_encoder."`` where the folder has one for each part, else empty.
        weights: the safetensors file, or a pickle where there is none.
        scales: of the config, for whichever part the names turn out to be of.
    """

    prefix: str
    weights: Path
    scales: Mapping[str, Scales]

    def dotted(self, name: str) -> str:
        """The name of a tensor as diffusers files have it."""
        return self.prefix + name.removeprefix(KEY_PREFIX)

    @property
    def said(self) -> dict[str, str]:
        """Metadata that the config amounts to."""
        return dict(FOLDED) if any(own.rank_stabilised for own in self.scales.values()) else {}


def peft_parts(folder: Path, limits: Limits) -> list[PeftPart]:
    """The parts of a PEFT folder, their configs read; tensors are not.

    Raises:
        AdapterError: a config is missing, broken, of a kind that is not supported, or a link leads out.
    """
    found = []
    for part, place in _part_folders(folder).items():
        weights, config_file = place / WEIGHTS_NAME, place / CONFIG_NAME
        if not weights.exists() and (place / PICKLED_NAME).exists():
            weights = place / PICKLED_NAME
        for path in (weights, config_file):
            refuse_link_out(path, place)
        scales = read_scales(_read_config(config_file, limits), where=str(config_file))
        prefix = f"{part}." if part else ""
        found.append(PeftPart(prefix=prefix, weights=weights, scales=dict.fromkeys(PARTS, scales)))
    return found


def _part_folders(folder: Path) -> dict[str | None, Path]:
    if (folder / CONFIG_NAME).is_file():
        return {None: folder}
    return {part: folder / part for part in PARTS if (folder / part / CONFIG_NAME).is_file()}


def _read_config(path: Path, limits: Limits) -> Mapping[str, Any]:
    data = read_file(path, limits)
    if len(data) > _MAX_CONFIG_BYTES:
        raise AdapterError(f"{path}: larger than 1 MiB, which no adapter_config.json is.")
    try:
        config = json.loads(data, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        cause = printable(str(error), longest=120)
        raise AdapterError(f"{path}: not valid JSON ({cause}). Fetch it again.") from error
    if not isinstance(config, dict):
        raise AdapterError(f"{path}: holds a {type(config).__name__}, expected a table of settings.")
    return config
