"""The blocks of a base, as people speak of them, and one weight for each."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from detour.adapters.adapter import Adapter, LoraLayer, part_of, path_of
from detour.errors import ConfigError, nearest

REST = "rest"
"""The UNet's layers outside its blocks: ``conv_in``, ``conv_out``, the embeddings of time and size."""

_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.|(mid)_block\.")

BlockWeight = tuple[str, float]


def block_of(key: str) -> str:
    """``"unet.down_blocks.1.attentions.0.…"`` → ``"down.1"``; also ``mid``, ``up.N``, ``rest``, a text part."""
    if part_of(key) != "unet":
        return part_of(key)
    match = _BLOCK.match(path_of(key))
    if match is None:
        return REST
    return match[3] or f"{match[1]}.{match[2]}"


def blocks_in_order(keys: Iterable[str]) -> list[str]:
    """The blocks of these layers, the way the latents go: rest, down, mid, up, then the text encoders."""
    sides = {REST: 0, "down": 1, "mid": 2, "up": 3, "text_encoder": 4, "text_encoder_2": 5}

    def place(block: str) -> tuple[int, int]:
        side, _, index = block.partition(".")
        return sides.get(side, 6), int(index or 0)

    return sorted({block_of(key) for key in keys}, key=place)


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


def weigh_blocks(adapter: Adapter, weights: Sequence[BlockWeight]) -> Adapter:
    """Multiply the change of every layer by its block's weight; ``up.1`` wins over ``up``, others stay at 1.

    The factors are kept and alpha is multiplied, so that nothing is rounded; layers of weight 0 are left out.

    Raises:
        ConfigError: a block that the adapter has no layers in, or nothing would be left.
        AdapterError: layers of another kind than plain LoRA.
    """
    there = blocks_in_order(adapter.layers)
    names = [*there, *(side for side in ("down", "up") if any(block.startswith(side) for block in there))]
    for block, _ in weights:
        if block not in names:
            raise ConfigError(
                f"the adapter has no layers in block '{block}'.{nearest(block, names)} It has {', '.join(there)}."
            )
    chosen = dict(weights)
    layers: dict[str, LoraLayer] = {}
    for key, layer in adapter.plain_layers(purpose="weighing blocks").items():
        block = block_of(key)
        weight = chosen.get(block, chosen.get(block.partition(".")[0], 1.0))
        if weight != 0.0:
            layers[key] = replace(layer, alpha=layer.alpha * weight)
    if not layers:
        raise ConfigError("every block has the weight 0, so nothing would be left of the adapter.")
    return replace(adapter, layers=layers)
