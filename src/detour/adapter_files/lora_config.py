"""PEFT's configs as data: written beside PEFT folders, and with prefixes into diffusers files."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from detour.adapters.layers import Layer
from detour.errors import AdapterError
from detour.printing import printable

_MAX_PATTERNS = 16_384

KINDS = {"LORA": "lora_alpha", "LOHA": "alpha", "LOKR": "alpha"}
"""``peft_type`` → the name of its alpha."""


@dataclass(frozen=True)
class Scales:
    """What a config says of the scale of each layer."""

    alpha: float
    rank: int = 8
    says_rank: bool = False
    alphas: "_Patterns" = field(default_factory=dict)
    ranks: "_Patterns" = field(default_factory=dict)
    rank_stabilised: bool = False
    has_magnitudes: bool = False

    def alpha_of(self, path: str, rank: int) -> float:
        """Our alpha (scale = alpha / rank) of the layer at ``path``."""
        alpha = _first(self.alphas, path, self.alpha)
        return alpha * math.sqrt(rank) if self.rank_stabilised else alpha

    def rank_of(self, path: str) -> int:
        """The rank that the config gives to ``path``."""
        return int(_first(self.ranks, path, self.rank))


def to_config(layers: Mapping[str, Layer], *, alpha_name: str = "lora_alpha") -> dict[str, Any]:
    """``r``, alpha and ``target_modules`` of path → layer, with patterns for the exceptions."""
    sizes = {path: (layer.rank, layer.alpha) for path, layer in layers.items()}
    return sizes_config(sizes, alpha_name=alpha_name)


def sizes_config(sizes: Mapping[str, tuple[int, float]], *, alpha_name: str) -> dict[str, Any]:
    """Write the configuration for the PEFT library from path → (rank, alpha), as :func:`to_config` does from layers."""
    counts = Counter(sizes.values())
    rank, alpha = max(counts, key=lambda size: (counts[size], size))  # the most frequent, whatever the order
    ordered = sorted(sizes.items())
    return {
        "r": rank,
        alpha_name: _whole(alpha),
        "target_modules": sorted(sizes),
        "rank_pattern": {path: mine for path, (mine, _) in ordered if mine != rank},
        "alpha_pattern": {path: _whole(mine) for path, (_, mine) in ordered if mine != alpha},
    }


def read_scales(config: Mapping[str, Any], *, where: str) -> Scales:
    """The scales that a config gives; ranks of factors are read from the tensors.

    Raises:
        AdapterError: a method that is not supported, or values that are none.
    """
    kind = config.get("peft_type", "LORA")
    if not isinstance(kind, str) or kind not in KINDS:
        raise AdapterError(f"{where}: its peft_type is {str(kind)[:40]!r}; {', '.join(KINDS)} are supported.")
    if config.get("lora_bias") or config.get("bias", "none") != "none":
        raise AdapterError(f"{where}: it trains biases, which is not supported. Use a plain LoRA.")
    _require_plain_start(config, where)
    _require_no_variant(config, where)
    rank = _number(config.get("r", 8), "r", where)
    if not 1 <= rank <= 1 << 20:
        raise AdapterError(f"{where}: its r is {rank:g}, expected a rank.")
    return Scales(
        alpha=_number(config.get(KINDS[kind], 8), KINDS[kind], where),
        rank=int(rank),
        says_rank="r" in config,
        alphas=_patterns(config, "alpha_pattern", where),
        ranks=_patterns(config, "rank_pattern", where),
        rank_stabilised=bool(config.get("use_rslora", False)),
        has_magnitudes=bool(config.get("use_dora", False)),
    )


_PLAIN_STARTS = ("gaussian", "eva", "orthogonal", "mica")
"""Values of ``init_lora_weights`` that leave the base as it is."""

_CONVERTED_STARTS = ("pissa", "olora", "corda", "lora_ga")
"""Values, or their beginnings, that take a part out of the base; PEFT can turn what was trained into a plain LoRA."""


def _require_plain_start(config: Mapping[str, Any], where: str) -> None:
    """Raise for an adapter that goes with a base which its start has changed: on the base itself it is another change.

    Source: ``reset_lora_parameters`` and ``save_pretrained`` of PEFT 0.21.

    Raises:
        AdapterError: names the conversion where PEFT offers one.
    """
    start = config.get("init_lora_weights", True)
    if start is None or isinstance(start, bool) or str(start).lower() in _PLAIN_STARTS:
        return
    said = printable(str(start), longest=40)
    wrong = f"{where}: its init_lora_weights is '{said}', which changes the base too, so that on the base itself it is"
    if said.lower().startswith(_CONVERTED_STARTS):
        raise AdapterError(
            f"{wrong} another change. Save it as a plain LoRA first, with PEFT's save_pretrained(FOLDER, "
            "path_initial_model_for_weight_conversion=FOLDER OF THE ADAPTER BEFORE TRAINING)."
        )
    raise AdapterError(
        f"{wrong} another change, and PEFT has no conversion for it. Merge it where it was trained, and extract the "
        "difference with detour extract."
    )


_VARIANTS = {
    "use_qalora": "QALoRA pools the inputs",
    "alora_invocation_tokens": "Activated LoRA acts on some tokens only",
    "use_bdlora": "BD-LoRA has factors in blocks",
    "arrow_config": "Arrow chooses among several adapters",
    "kasa_config": "KaSA changes the base and has a third factor",
    "monteclora_config": "MonteCLoRA draws its factors",
    "layer_replication": "it repeats layers of the base",
    "trainable_token_indices": "it trains embeddings of tokens",
    "modules_to_save": "it holds whole modules of the base",
}
"""Settings of PEFT's configs → why an adapter that has them is no plain LoRA."""


def _require_no_variant(config: Mapping[str, Any], where: str) -> None:
    found = next((name for name in _VARIANTS if config.get(name)), None)
    if found is not None:
        raise AdapterError(
            f"{where}: it sets {found}: {_VARIANTS[found]}, which is not supported. Use a plain LoRA."
        )


_Patterns = Mapping[str, tuple[int, float]]
"""Path or its ending → (place in the file, value)."""


def _patterns(config: Mapping[str, Any], name: str, where: str) -> _Patterns:
    patterns = config.get(name) or {}
    if not isinstance(patterns, dict):
        raise AdapterError(f"{where}: its {name} is a {type(patterns).__name__}, expected a table.")
    if len(patterns) > _MAX_PATTERNS:
        raise AdapterError(f"{where}: its {name} has {len(patterns):,} entries. It is no adapter.")
    return {
        _literal(key, name, where): (place, _number(value, name, where))
        for place, (key, value) in enumerate(patterns.items())
    }


def _first(patterns: _Patterns, path: str, default: float) -> float:
    """Find the first pattern in the file that is the path or its ending at a dot, which is the one that PEFT takes."""
    words = path.split(".") if patterns else []
    endings = (".".join(words[start:]) for start in range(len(words)))
    return min((patterns[ending] for ending in endings if ending in patterns), default=(0, default))[1]


def _literal(pattern: str, name: str, where: str) -> str:
    """Only plain paths are read: PEFT takes regular expressions, and one from a file could run for ever."""
    plain = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".").removeprefix("text_model.")
    if not plain.replace(".", "").replace("_", "").isalnum():
        raise AdapterError(f"{where}: its {name} has {pattern[:60]!r}, which is no plain layer path.")
    return plain


def _number(value: Any, name: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
        raise AdapterError(f"{where}: its {name} is {str(value)[:40]!r}, expected a number.")
    return float(value)


def _is_finite(value: int | float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def _whole(value: float) -> int | float:
    return int(value) if float(value).is_integer() else float(value)
