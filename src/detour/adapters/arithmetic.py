"""How large an adapter is, from shapes alone."""

import math
from collections.abc import Iterable

from detour.adapter_methods import AdapterMethod as Method
from detour.adapters.start import split_size
from detour.adapters.targets import AdaptableLayer
from detour.errors import AdapterError

BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}


def lora_parameters(layer: AdaptableLayer, rank: int) -> int:
    """Parameters of one layer's two factors: ``rank * (in * kh * kw + out)``.

    ``down`` has the kernel of the layer, ``up`` is 1x1. The formula is not capped at :func:`usable_rank`.

    Source: Hu et al. 2021, arXiv:2106.09685, section 4.1; convolutions as in kohya's scripts.
    """
    height, width = layer.kernel
    return rank * (layer.in_features * height * width + layer.out_features)


def layer_parameters(layer: AdaptableLayer, rank: int, method: Method = "lora") -> int:
    """Parameters of one layer of any method; LoKr's first matrix as near to a square as it can be."""
    plain = lora_parameters(layer, rank)
    if method == "lora":
        return plain
    if method == "dora":
        return plain + layer.out_features  # a magnitude for each output
    if method == "loha":
        return 2 * plain
    if method != "lokr":
        raise AdapterError(f"no count of parameters is known for method '{method}'.")
    (out1, out2), (in1, in2) = split_size(layer.out_features), split_size(layer.in_features)
    kernel = math.prod(layer.kernel)
    whole = rank >= max(out2, in2) / 2
    return out1 * in1 + (out2 * in2 * kernel if whole else rank * (out2 + in2 * kernel))


def count(layers: Iterable[AdaptableLayer], rank: int, method: Method = "lora") -> int:
    """Parameters of an adapter of one rank beside all of ``layers``."""
    return sum(layer_parameters(layer, rank, method) for layer in layers)


def stabilised_alpha(alpha: float, rank: int) -> float:
    """The alpha that makes the usual scale alpha / rank what rank-stabilised LoRA wants: alpha / √rank.

    Source: Kalajdzievski 2023, arXiv:2312.03732.
    """
    return alpha * math.sqrt(rank)


def usable_rank(layer: AdaptableLayer) -> int:
    """The largest rank that adds something: the rank of a full weight change of this layer.

    SD 1.5's ``conv_out`` (320 → 4 channels) can use 4, ``conv_in`` (4 channels, 3x3) 36.
    """
    height, width = layer.kernel
    return min(layer.in_features * height * width, layer.out_features)


def file_bytes(layers: Iterable[AdaptableLayer], rank: int, dtype: str, method: Method = "lora") -> int:
    """Bytes of the factors in a file of ``dtype`` (fp32, fp16, bf16); header and metadata come on top."""
    return count(layers, rank, method) * BYTES[dtype]
