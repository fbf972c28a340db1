"""PEFT's ``LoraConfig`` as data: written beside PEFT folders, and with prefixes into diffusers files."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from detour.adapters.adapter import LoraLayer
from detour.errors import AdapterError


@dataclass(frozen=True)
class Scales:
    """What a ``LoraConfig`` says of the scale of each layer."""

    alpha: float
    patterns: Mapping[str, float] = field(default_factory=dict)
    rank_stabilised: bool = False

    def alpha_of(self, path: str, rank: int) -> float:
        """Our alpha (scale = alpha / rank) of the layer at ``path``."""
        alpha = next((a for pattern, a in self.patterns.items() if _matches(pattern, path)), self.alpha)
        return alpha * math.sqrt(rank) if self.rank_stabilised else alpha


def to_config(layers: Mapping[str, LoraLayer]) -> dict[str, Any]:
    """``r``, ``lora_alpha`` and ``target_modules`` of path → layer, with patterns for the exceptions."""
    sizes = Counter((layer.rank, layer.alpha) for layer in layers.values())
    rank, alpha = max(sizes, key=lambda size: (sizes[size], size))  # the most frequent, whatever the order
    return {
        "r": rank,
        "lora_alpha": _whole(alpha),
        "target_modules": sorted(layers),
        "rank_pattern": {path: layer.rank for path, layer in sorted(layers.items()) if layer.rank != rank},
        "alpha_pattern": {
            path: _whole(layer.alpha) for path, layer in sorted(layers.items()) if layer.alpha != alpha
        },
    }


def read_scales(config: Mapping[str, Any], *, where: str) -> Scales:
    """The scales that a config gives; ranks are read from the tensors.

    Raises:
        AdapterError: another method than plain LoRA, or values that are none.
    """
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        raise AdapterError(f"{where}: its peft_type is {str(kind)[:40]!r}; only LORA is supported.")
    if config.get("use_dora"):
        raise AdapterError(f"{where}: DoRA is not supported. Use a plain LoRA.")
    if config.get("lora_bias") or config.get("bias", "none") != "none":
        raise AdapterError(f"{where}: it trains biases, which is not supported. Use a plain LoRA.")
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise AdapterError(f"{where}: its alpha_pattern is a {type(patterns).__name__}, expected a table.")
    return Scales(
        alpha=_number(config.get("lora_alpha", 8), "lora_alpha", where),
        patterns={
            _literal(key, where): _number(value, "alpha_pattern", where) for key, value in patterns.items()
        },
        rank_stabilised=bool(config.get("use_rslora", False)),
    )


def _matches(pattern: str, path: str) -> bool:
    return path == pattern or path.endswith("." + pattern)


def _literal(pattern: str, where: str) -> str:
    """Only plain paths are read: PEFT takes regular expressions, and one from a file could run for ever."""
    plain = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".").removeprefix("text_model.")
    if not plain.replace(".", "").replace("_", "").isalnum():
        raise AdapterError(f"{where}: its alpha_pattern has {pattern[:60]!r}, which is no plain layer path.")
    return plain


def _number(value: Any, name: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise AdapterError(f"{where}: its {name} is {str(value)[:40]!r}, expected a number.")
    return float(value)


def _whole(value: float) -> int | float:
    return int(value) if float(value).is_integer() else float(value)
