"""Checks by shapes whether an adapter fits a base, before anything heavy is loaded."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from detour.adapters.adapter import Adapter, Layer, path_of
from detour.adapters.places import find_layer
from detour.bases.base import Base
from detour.errors import AdapterError

_FAMILY_OF_WIDTH = {768: ("SD 1", "sd1"), 1024: ("SD 2", "sd2"), 2048: ("SDXL", "sdxl")}


def check_fits(
    adapter: Adapter, base: Base, *, called: str = "adapter", network: nn.Module | None = None
) -> None:
    """Compare every layer with the base's shapes (no weights are read).

    Args:
        adapter: any.
        base: that it is to be used with.
        called: its file, named where the adapter has no title.
        network: of the base, where it is at hand; ``None``: its shapes are made from its configuration, which takes
            a third of a second.

    Raises:
        AdapterError: made for another family or size; names the widths that tell them apart.
    """
    width = cross_attention_width(adapter)
    name = adapter.metadata.get("modelspec.title") or adapter.metadata.get("ss_output_name") or called
    if width is not None and width != base.cross_attention_width:
        title, family = _FAMILY_OF_WIDTH.get(width, ("another base", ""))
        advice = f"a base of family '{family}'" if family else "the base it was made for"
        raise AdapterError(
            f"adapter '{name}' was trained for {title} (cross-attention width {width}); "
            f"base '{base.name}' has {base.cross_attention_width}. Choose {advice}."
        )
    try:
        _check_layers(adapter, base, network)
        _check_words(adapter, base)
    except AdapterError as error:
        raise AdapterError(f"adapter '{name}' does not fit base '{base.name}': {error}") from error


def _check_words(adapter: Adapter, base: Base) -> None:
    for word, parts in adapter.words.items():
        if set(parts) != set(base.text_parts):
            raise AdapterError(f"its word '{word}' has vectors for {', '.join(parts)} alone.")
        for part, vectors in parts.items():
            width = base.config(part)["hidden_size"]
            if vectors.shape[1] != width:
                raise AdapterError(
                    f"its word '{word}' has vectors of {vectors.shape[1]} numbers; the {part} takes {width}."
                )


def cross_attention_width(adapter: Adapter) -> int | None:
    """Width of the text states that the adapter's cross-attention reads; None if it adapts none.

    SD 3's second attention has the same name and reads no text states.
    """
    widths = (
        layer.in_features
        for key, layer in adapter.layers.items()
        if key.startswith("unet.") and key.endswith(("attn2.to_k", "attn2.to_v"))
    )
    return next(widths, None)


def _check_layers(adapter: Adapter, base: Base, network: nn.Module | None) -> None:
    network_part = base.family.network_part
    if network is None and network_part in adapter.parts:
        network = base.meta_network()
    for key, layer in adapter.layers.items():
        part = key.partition(".")[0]
        if part == network_part and network is not None:
            find_layer({part: network}, key, layer)
        elif part not in base.text_parts:
            raise AdapterError(f"it has layers for '{part}', a part that {base.family.title} has not.")
        else:
            _check_text_layer(key, layer, base.config(part))


def _check_text_layer(key: str, layer: Layer, config: Mapping[str, Any]) -> None:
    words = path_of(key).split(".")
    if words[0] != "encoder":
        return
    hidden, inner, depth = (
        config[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers")
    )
    expected = {"fc1": (hidden, inner), "fc2": (inner, hidden)}.get(words[-1], (hidden, hidden))
    found = (layer.in_features, layer.out_features)
    if int(words[2]) >= depth:
        raise AdapterError(f"'{key}' is layer {int(words[2]) + 1} of a text encoder that has {depth}.")
    if found != expected:
        raise AdapterError(
            f"'{key}' maps {found[0]} to {found[1]} features, {expected[0]} to {expected[1]} here."
        )
