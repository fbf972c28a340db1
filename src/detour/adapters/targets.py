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


_JOINT = re.compile(
    r"(?:single_)?transformer_blocks\.\d+\.attn\.(?:to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)"
)
_IMAGE = re.compile(r"transformer_blocks\.\d+\.attn2?\.(?:to_[qkv]|to_out\.0)")
_IMAGE_ALONE = re.compile(r"transformer_blocks\.\d+\.attn2\.(?:to_[qkv]|to_out\.0)")
_TEXT_SIDE = re.compile(r"transformer_blocks\.\d+\.attn\.(?:add_[qkv]_proj|to_add_out)")
_FEED_FORWARD = re.compile(r"(?:.*\.)?transformer_blocks\.\d+\.ff(?:_context)?\.net\.(?:0\.proj|2)")
_MODULATION = re.compile(r"(?:single_)?transformer_blocks\.\d+\.norm(?:1|1_context)?\.linear")
_SINGLE = re.compile(r"single_transformer_blocks\.\d+\..*")
_OF_TRANSFORMER = re.compile(r"(?:single_)?transformer_blocks\.\d+\..*")


def _by_pattern(*patterns: re.Pattern[str]) -> Callable[[AdaptableLayer], bool]:
    return lambda layer: any(pattern.fullmatch(layer.path) for pattern in patterns)


def _either(
    unet: Callable[[AdaptableLayer], bool], transformer: Callable[[AdaptableLayer], bool]
) -> Callable[[AdaptableLayer], bool]:
    """One preset for UNets (and text encoders) and another for transformers, whose blocks stand at the top.

    A UNet's attention is inside ``down_blocks`` and so on, so that a path tells them apart; SD 3.5's ``attn2`` reads
    the picture and is no cross-attention, and a ``proj_out`` by itself is a transformer's final layer.
    """

    def belongs(layer: AdaptableLayer) -> bool:
        if _OF_TRANSFORMER.fullmatch(layer.path):
            return transformer(layer)
        return layer.path != "proj_out" and unet(layer)

    return belongs


def _none(_: AdaptableLayer) -> bool:
    return False


PRESETS: Mapping[str, Callable[[AdaptableLayer], bool]] = {
    "cross-attn": _either(_by_suffix(*CROSS_ATTENTION), _none),
    "self-attn": _either(_by_suffix(*SELF_ATTENTION), _by_pattern(_IMAGE_ALONE)),
    "attn": _either(_by_suffix(*CROSS_ATTENTION, *SELF_ATTENTION, *TEXT_ATTENTION), _by_pattern(_JOINT)),
    "image-attn": _by_pattern(_IMAGE),
    "text-attn": _by_pattern(_TEXT_SIDE),
    "attn-proj": _either(_by_suffix(*CROSS_ATTENTION, *SELF_ATTENTION, *PROJECTIONS), _none),
    "feed-forward": _by_pattern(_FEED_FORWARD),
    "modulation": _by_pattern(_MODULATION),
    "single": _either(_none, lambda layer: bool(_SINGLE.fullmatch(layer.path)) and layer.kind == "linear"),
    "kohya": _either(
        _by_suffix(
            *CROSS_ATTENTION,
            *SELF_ATTENTION,
            *PROJECTIONS,
            *FEED_FORWARD,
            *TEXT_ATTENTION,
            *TEXT_FEED_FORWARD,
        ),
        lambda layer: layer.kind == "linear",
    ),
    "linear": lambda layer: layer.kind == "linear",
    "conv": lambda layer: layer.kind == "conv" and layer.kernel == (3, 3),
    "all": lambda _: True,
}
"""Preset → whether a layer belongs to it. ``kohya`` is what kohya's scripts adapt by default: in transformers every
Linear of the blocks. CLIP's text encoders name their layers otherwise than UNets do, so ``attn`` and ``kohya`` can
serve both.

In transformers ``attn`` is joint attention, the projections of both streams and of the single blocks (what diffusers'
scripts adapt); ``image-attn`` and ``text-attn`` are the two streams', ``self-attn`` is SD 3.5 medium's second
attention, which reads the picture alone, ``modulation`` the Linears that make scales and shifts of the time, and
``single`` all of Flux's single blocks.

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
