"""The blocks of a base, as people speak of them, and one weight for each."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from detour.adapters.adapter import DENOISERS, part_of, path_of
from detour.adapters.layers import Layer, LoraLayer
from detour.adapters.lycoris_layers import LohaLayer, LokrLayer
from detour.errors import AdapterError, ConfigError, nearest

REST = "rest"
"""The UNet's layers outside its blocks: ``conv_in``, ``conv_out``, the embeddings of time and size."""

_BLOCK = re.compile(
    r"(?P<side>down|up)_blocks\.(?P<index>\d+)\.|(?P<mid>mid)_block\.|(?P<kind>single_)?transformer_blocks\.(?P<number>\d+)\."
)
_ORDER = (REST, "down", "mid", "up", "block", "single", "text_encoder", "text_encoder_2", "text_encoder_3")

BlockWeight = tuple[str, float]


def block_of(key: str) -> str:
    """``"unet.down_blocks.1.attentions.0.…"`` → ``"down.1"``.

    Also ``mid`` and ``up.N``; of transformers ``block.N`` and, in Flux, ``single.N``; ``rest`` outside of the blocks;
    ``text_encoder`` and so on.
    """
    if part_of(key) not in DENOISERS:
        return part_of(key)
    match = _BLOCK.match(path_of(key))
    if match is None:
        return REST
    if match["number"]:
        return f"{'single' if match['kind'] else 'block'}.{match['number']}"
    return match["mid"] or f"{match['side']}.{match['index']}"


def blocks_in_order(keys: Iterable[str]) -> list[str]:
    """The blocks of these layers, the way the latents go: rest, down, mid, up, then the text encoders."""

    def place(block: str) -> tuple[int, int]:
        side, _, index = block.partition(".")
        return _ORDER.index(side) if side in _ORDER else len(_ORDER), int(index or 0)

    return sorted({block_of(key) for key in keys}, key=place)


_KINDS = {
    "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "out", "q_proj": "q", "k_proj": "k", "v_proj": "v",
    "out_proj": "out", "add_q_proj": "q", "add_k_proj": "k", "add_v_proj": "v", "to_add_out": "out",
}  # fmt: skip
_ATTENTIONS = {"attn1": "self", "attn2": "cross", "attn": "attn", "self_attn": "self"}


def kind_of(key: str) -> str:
    """What a layer does in its block, as people speak of it: ``"cross k"``, ``"feed-forward"``, ``"conv"``, …

    For pictures and tables: everything without a name of its own is ``"other"``.
    """
    words = path_of(key).split(".")
    attention = next((_ATTENTIONS[word] for word in words if word in _ATTENTIONS), None)
    if attention is not None:
        last = ".".join(words[-2:]) if words[-1] == "0" else words[-1]
        return f"{attention} {_KINDS[last]}" if last in _KINDS else "other"
    if any(word in ("ff", "ff_context", "mlp") for word in words):
        return "feed-forward"
    if words[-1] in ("proj_in", "proj_out"):
        return "in/out"
    if words[-1] == "time_emb_proj":
        return "time"
    if words[-1] in ("conv1", "conv2", "conv", "conv_in", "conv_out", "conv_shortcut"):
        return "conv"
    return "other"


KINDS_IN_ORDER = (
    *(f"{side} {end}" for side in ("self", "cross", "attn") for end in ("q", "k", "v", "out")),
    "feed-forward", "in/out", "conv", "time", "other",
)  # fmt: skip
"""Every answer of :func:`kind_of`."""


def parse_block_weights(text: str) -> tuple[BlockWeight, ...]:
    """``"down=1,mid=0.5,up.1=0"`` → ``(("down", 1.0), ("mid", 0.5), ("up.1", 0.0))``.

    Raises:
        ConfigError: not of this form, a block twice, or a weight that is no number.
    """
    weights: dict[str, float] = {}
    for piece in filter(None, (piece.strip() for piece in text.split(","))):
        block, equals, number = (word.strip() for word in piece.partition("="))
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not equals or not block or not math.isfinite(weight):
            raise ConfigError(f"blocks '{piece}': write BLOCK=WEIGHT, e.g. down=1,mid=0.5,up=1.")
        if block in weights:
            raise ConfigError(f"blocks '{text}': '{block}' stands there twice.")
        weights[block] = weight
    if not weights:
        raise ConfigError("no blocks were named. Write e.g. down=1,mid=0.5,up=1.")
    return tuple(weights.items())


def weight_of_blocks(keys: Iterable[str], weights: Sequence[BlockWeight]) -> dict[str, float]:
    """Layer key → the weight of its block; ``up.1`` wins over ``up``, blocks that are not named have 1.

    Raises:
        ConfigError: a block that the adapter has no layers in, or nothing would be left.
    """
    keys = tuple(keys)
    there = blocks_in_order(keys)
    sides = {block.partition(".")[0] for block in there if "." in block}
    names = [*there, *sorted(sides)]
    for block, _ in weights:
        if block not in names:
            raise ConfigError(
                f"the adapter has no layers in block '{block}'.{nearest(block, names)} It has {', '.join(there)}."
            )
    chosen = dict(weights)
    found = {key: chosen.get(block_of(key), chosen.get(block_of(key).partition(".")[0], 1.0)) for key in keys}
    if not any(found.values()):
        raise ConfigError("every block has the weight 0, so nothing would be left of the adapter.")
    return found


def weigh_layer(key: str, layer: Layer, weight: float) -> Layer:
    """The layer with its change multiplied: the factors are kept and alpha is multiplied, so that nothing is rounded.

    Args:
        key: named in errors.
        layer: of any kind; a DoRA at weight 1 only.
        weight: 1 returns the layer itself.

    Raises:
        AdapterError: a DoRA at another weight, which no DoRA is.
    """
    if weight == 1.0:
        return layer
    if isinstance(layer, LoraLayer | LohaLayer | LokrLayer):
        return replace(layer, alpha=layer.alpha * weight)
    raise AdapterError(
        f"'{key}' is a {layer.kind}: part of its change is none again, because it sets the norm of the whole "
        "weight. Give its block 1 or 0, or merge it into a base."
    )
