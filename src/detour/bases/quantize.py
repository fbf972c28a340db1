"""A frozen base in fewer bits: its linear layers in NF4 (double quantisation) or int8, everything else as it was.

Adapters stand beside the quantised layers in fp32 (QLoRA: Dettmers et al. 2023, arXiv:2305.14314). Nothing of the
base learns, so nothing is lost but the rounding of its weights.
"""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from detour.errors import ConfigError

Quantization = Literal["nf4", "int8"]

PACKAGES: dict[Quantization, str] = {"nf4": "bitsandbytes", "int8": "torchao"}

BYTES_A_WEIGHT: dict[Quantization, float] = {"nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "int8": 1.0}
"""Bytes a weight of a quantised layer; NF4: half a byte, an int8 scale for 64 weights, a float32 one for 256 of those;
int8 without its scales, one an output in the layer's dtype."""

SMALLEST_WEIGHTS = 4096
"""Layers with fewer weights stay as they are: nothing is saved there."""

LEFT_OUT = (
    "time_embedding", "add_embedding", "class_embedding", "time_text_embed", "x_embedder", "context_embedder",
    "norm_out", "proj_out",
)  # fmt: skip
"""Parts whose few layers feed every block, or are fed by every one: rounding them costs more than it saves."""


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """How many layers were quantised, and the bytes before and after.

    Attributes:
        layers: linear layers.
        bytes_before: of all weights and buffers of the model.
        bytes_after: the same, afterwards.
    """

    layers: int
    bytes_before: int
    bytes_after: int


def require_quantizer(kind: Quantization) -> None:
    """Raise now if the library is not installed.

    Raises:
        ConfigError: names the pip command.
    """
    if importlib.util.find_spec(PACKAGES[kind]) is None:
        raise ConfigError(
            f"base.quantize '{kind}' needs the package '{PACKAGES[kind]}', which is not installed. "
            "Run: pip install detour-lora[quant]"
        )


def quantize_linears(model: nn.Module, kind: Quantization, *, dtype: torch.dtype, device: str) -> Quantized:
    """Quantise the linear layers of a frozen model, in place, and move it to ``device``.

    Args:
        model: frozen, in ``dtype``, on the CPU: each layer is quantised on its way to the device.
        kind: ``nf4``: 4 bits in blocks of 64 with quantised scales; ``int8``: one scale an output.
        dtype: in which the layers compute.
        device: where the model works.

    Raises:
        ConfigError: the library is missing, or no layer is large enough.
    """
    require_quantizer(kind)
    before = stored_bytes(model)
    chosen = list(chosen_linears(model))
    if not chosen:
        raise ConfigError(
            f"base.quantize '{kind}': no linear layer of this base has {SMALLEST_WEIGHTS:,} weights or more. "
            "Leave it out."
        )
    for name in chosen:
        parent_path, _, child = name.rpartition(".")
        parent = model.get_submodule(parent_path)
        layer = getattr(parent, child)
        setattr(parent, child, _nf4(layer, dtype, device) if kind == "nf4" else _int8(layer, device))
    model.to(device)
    model.eval().requires_grad_(False)
    return Quantized(layers=len(chosen), bytes_before=before, bytes_after=stored_bytes(model))


def stored_bytes(model: nn.Module) -> int:
    """Bytes of everything that a model keeps: weights, scales, buffers."""
    return sum(_bytes(tensor) for tensor in model.state_dict().values())


def _bytes(tensor: Any) -> int:
    if hasattr(tensor, "__tensor_flatten__"):
        inner, _ = tensor.__tensor_flatten__()
        return sum(_bytes(getattr(tensor, name)) for name in inner)
    return int(tensor.numel() * tensor.element_size())


def chosen_linears(model: nn.Module) -> Iterator[str]:
    """Paths of the layers that are quantised; works on the meta device."""
    for name, module in model.named_modules():
        is_fit = type(module) is nn.Linear and module.weight.numel() >= SMALLEST_WEIGHTS
        if is_fit and name.split(".")[0] not in LEFT_OUT:
            yield name


def saved_bytes(model: nn.Module, kind: Quantization, dtype: torch.dtype) -> int:
    """Bytes by which the quantised weights would be smaller than in ``dtype``; works on the meta device."""
    weights = [model.get_parameter(f"{path}.weight") for path in chosen_linears(model)]
    num_weights, num_outputs = sum(w.numel() for w in weights), sum(len(w) for w in weights)
    scales = num_outputs * dtype.itemsize if kind == "int8" else 0
    return int(num_weights * (dtype.itemsize - BYTES_A_WEIGHT[kind])) - scales


def _nf4(layer: nn.Linear, dtype: torch.dtype, device: str) -> nn.Module:
    from bitsandbytes.nn import Linear4bit, Params4bit

    made = Linear4bit(
        layer.in_features,
        layer.out_features,
        bias=layer.bias is not None,
        compute_dtype=dtype,
        compress_statistics=True,  # double quantisation
        quant_type="nf4",
        device="meta",
    )
    made.weight = Params4bit(
        layer.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4"
    )
    made.bias = layer.bias
    # On CPUs with AVX512-BF16 a pass whose input has no gradient would repack the weights in place, with scales rounded
    # to bf16 for good (bitsandbytes 0.50): the base would change while it is used.
    made.support_avx512bf16_for_cpu = False
    moved: nn.Module = made.to(device)  # which quantises
    return moved


def _int8(layer: nn.Linear, device: str) -> nn.Module:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    held = nn.Sequential(layer.to(device))  # torchao replaces weights of the layers inside
    quantize_(held, Int8WeightOnlyConfig())
    return held[0]
