"""Which layers an adapter stands beside: presets, lists of names, regular expressions."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from detour.errors import ConfigError, nearest


@dataclass(frozen=True, kw_only=True)
class AdaptableLayer:
    """A layer that can take an adapter.

    Attributes:
        path: its name in the model, e.g. ``mid_block.attentions.0.transformer_blocks.0.attn2.to_k``.
        kind: ``linear`` or ``conv``.
        in_features: input width or channels.
        out_features: output width or channels.
        kernel: (height, width); (1, 1) for Linear.
    """

    path: str
    kind: Literal["linear", "conv"]
    in_features: int
    out_features: int
    kernel: tuple[int, int] = (1, 1)


ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
PROJECTIONS = ("proj_in", "proj_out")
FEED_FORWARD = ("ff.net.0.proj", "ff.net.2")

TEXT_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
TEXT_FEED_FORWARD = ("fc1", "fc2")

CROSS_ATTENTION = tuple(f"attn2.{name}" for name in ATTENTION)
SELF_ATTENTION = tuple(f"attn1.{name}" for name in ATTENTION)


def has_suffix(path: str, suffixes: Sequence[str]) -> bool:
    """Whether ``path`` is one of the names or ends in one, at a dot."""
    return any(path == suffix or path.endswith("." + suffix) for suffix in suffixes)


def _by_suffix(*suffixes: str) -> Callable[[AdaptableLayer], bool]:
    return lambda layer: has_suffix(layer.path, suffixes)


PRESETS: Mapping[str, Callable[[AdaptableLayer], bool]] = {
    "cross-attn": _by_suffix(*CROSS_ATTENTION),
    "self-attn": _by_suffix(*SELF_ATTENTION),
    "attn": _by_suffix(*CROSS_ATTENTION, *SELF_ATTENTION, *TEXT_ATTENTION),
    "attn-proj": _by_suffix(*CROSS_ATTENTION, *SELF_ATTENTION, *PROJECTIONS),
    "kohya": _by_suffix(
        *CROSS_ATTENTION, *SELF_ATTENTION, *PROJECTIONS, *FEED_FORWARD, *TEXT_ATTENTION, *TEXT_FEED_FORWARD
    ),
    "linear": lambda layer: layer.kind == "linear",
    "conv": lambda layer: layer.kind == "conv" and layer.kernel == (3, 3),
    "all": lambda _: True,
}
"""Preset → whether a layer belongs to it. ``kohya`` is what kohya's scripts adapt by default. CLIP's text encoders
name their layers otherwise than UNets do, so ``attn`` and ``kohya`` can serve both.

As bare suffixes ``to_q, to_k, to_v`` match self-attention too; ``attn2.to_k`` is the cross-attention alone.
"""


def adaptable_layers(model: nn.Module) -> list[AdaptableLayer]:
    """Every Linear and ungrouped Conv2d of a model, in the model's order; works on the meta device.

    With an adapter attached the answer is the same as without.
    """
    layers = []
    for name, module in model.named_modules():
        if re.search(r"(^|\.)lora_", name):
            continue
        path = name.removesuffix(".base_layer")
        if isinstance(module, nn.Linear):
            layers.append(
                AdaptableLayer(
                    path=path,
                    kind="linear",
                    in_features=module.in_features,
                    out_features=module.out_features,
                )
            )
        elif isinstance(module, nn.Conv2d) and module.groups == 1:
            layers.append(
                AdaptableLayer(
                    path=path,
                    kind="conv",
                    in_features=module.in_channels,
                    out_features=module.out_channels,
                    kernel=(int(module.kernel_size[0]), int(module.kernel_size[1])),
                )
            )
    return layers


def select(layers: Sequence[AdaptableLayer], targets: str) -> list[AdaptableLayer]:
    """The layers that ``targets`` asks for, in the order given.

    Args:
        layers: of :func:`adaptable_layers`.
        targets: a preset; a comma-separated list of presets and module names, where a name matches the layers
            that it ends (``attn2.to_k``); or ``re:`` and a regular expression searched for in the path.

    Raises:
        ConfigError: something in it matches no layer, or the expression is not one.
    """
    if targets.startswith("re:"):
        wanted = _matching(layers, targets.removeprefix("re:"))
    else:
        names = [name.strip() for name in targets.split(",") if name.strip()]
        wanted = {layer.path for name in names for layer in _named(layers, name)}
    if not wanted:
        raise ConfigError(f"targets '{targets}' match no layer. Presets: {_presets_of(layers)}.")
    return [layer for layer in layers if layer.path in wanted]


def _presets_of(layers: Sequence[AdaptableLayer]) -> str:
    """Names of the presets that match any of the layers: text encoders have fewer than UNets."""
    return ", ".join(name for name, belongs in PRESETS.items() if any(belongs(layer) for layer in layers))


def _matching(layers: Sequence[AdaptableLayer], expression: str) -> set[str]:
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise ConfigError(f"targets 're:{expression}': not a regular expression ({error}).") from error
    return {layer.path for layer in layers if pattern.search(layer.path)}


def _named(layers: Sequence[AdaptableLayer], name: str) -> list[AdaptableLayer]:
    belongs = PRESETS.get(name) or _by_suffix(name)
    found = [layer for layer in layers if belongs(layer)]
    if found:
        return found
    if name in PRESETS:
        raise ConfigError(f"targets '{name}': this model has no such layers. Presets: {_presets_of(layers)}.")
    endings = {".".join(layer.path.split(".")[-depth:]) for layer in layers for depth in (1, 2, 3)}
    hint = nearest(name, list(PRESETS)) or nearest(name, sorted(endings))
    raise ConfigError(f"targets '{name}' match no layer.{hint} Presets: {_presets_of(layers)}.")
