"""LoKr in PEFT's terms: PEFT makes the shapes of all layers from one factor and two switches, and each layer's rank.

A LoKr from elsewhere can be put into a PEFT folder only where these exist for it; LyCORIS follows the same rule, so for
one trained with one factor they do.

Source: ``factorization`` and ``update_layer`` in PEFT 0.21's ``lokr/layer.py``; Yeh et al. 2023, arXiv:2309.14859.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from detour.adapter_files.lora_config import sizes_config
from detour.adapters.layers import Layer
from detour.adapters.lycoris_layers import LokrLayer
from detour.errors import AdapterError

_KERNELS = dict.fromkeys(("conv1", "conv2", "conv", "conv_in", "conv_out"), 9)
"""Last word of a path → numbers in its kernel, where it is not one."""


@dataclass(frozen=True, kw_only=True)
class _Sizes:
    """Sizes of both matrices: (out1, out2), (in1, in2) without the kernel; ranks of those in factors."""

    out: tuple[int, int]
    inputs: tuple[int, int]
    kernel: int
    first_rank: int | None
    second_rank: int | None
    tucker: bool


def lokr_config(part: str, layers: Mapping[str, Layer]) -> dict[str, Any]:
    """The settings under which PEFT makes exactly these matrices.

    Args:
        part: named in errors.
        layers: path → LoKr.

    Raises:
        AdapterError: there are none; names a layer.
    """
    sizes = {path: _sizes(path, layer) for path, layer in layers.items() if isinstance(layer, LokrLayer)}
    both = any(one.first_rank is not None for one in sizes.values())
    tucker = any(one.tucker for one in sizes.values())
    factors = (
        -1,
        *sorted({one.out[0] for one in sizes.values()} | {one.inputs[0] for one in sizes.values()}),
    )
    fitting = [factor for factor in factors if all(_splits(one, factor) for one in sizes.values())]
    if not fitting:
        raise _refused(part, next(iter(sizes)), "its layers were split by several factors")
    ranks = {}
    for path, one in sizes.items():
        rank = _rank(one, both=both)
        flat = not one.tucker and one.kernel > 1 and one.second_rank is not None
        if rank is None or (tucker and flat):
            raise _refused(part, path, "PEFT would make other matrices for it beside the other layers")
        ranks[path] = (rank, layers[path].alpha / layers[path].rank * rank)
    return {
        "peft_type": "LOKR",
        "decompose_both": both,
        "decompose_factor": fitting[0],
        "use_effective_conv2d": tucker,
        **sizes_config(ranks, alpha_name="alpha"),
    }


def _refused(part: str, path: str, reason: str) -> AdapterError:
    return AdapterError(
        f"'{part}.{path}' is a LoKr that no PEFT folder can hold: {reason}. Save it as kohya instead."
    )


def _sizes(path: str, layer: LokrLayer) -> _Sizes:
    first = (layer.w1, layer.w1_a, layer.w1_b)
    out1 = int((first[0] if first[0] is not None else _given(first[1])).shape[0])
    in1 = int((first[0] if first[0] is not None else _given(first[2])).shape[1])
    height, width = layer.kernel
    area = height * width
    inputs = layer.in_features
    if not layer.knows_kernel:
        area = next((size for name, size in _KERNELS.items() if path.rpartition(".")[2] == name), 1)
        area = 4 if path == "pos_embed.proj" else area  # of SD 3, 2×2
        inputs //= area
    return _Sizes(
        out=(out1, layer.out_features // out1),
        inputs=(in1, inputs // in1),
        kernel=area,
        first_rank=None if layer.w1_b is None else int(layer.w1_b.shape[0]),
        second_rank=None if layer.w2_b is None else int(layer.w2_b.shape[0]),
        tucker=layer.t2 is not None,
    )


def _given(value: Any) -> Any:
    assert value is not None
    return value


def _rank(one: _Sizes, *, both: bool) -> int | None:
    """The r for which PEFT takes whole matrices where they are whole, and factors where they are factors."""
    limits = max(one.out[0], one.inputs[0]) / 2, max(one.out[1], one.inputs[1]) / 2
    ranks = {rank for rank in (one.first_rank, one.second_rank) if rank is not None}
    smallest = max(
        limits[1] if one.second_rank is None else 1, limits[0] if both and one.first_rank is None else 1
    )
    rank = ranks.pop() if ranks else -int(-smallest // 1)
    first_fits = one.first_rank is None or rank < limits[0]
    second_fits = one.second_rank is None or rank < limits[1]
    return rank if not ranks and rank >= smallest and first_fits and second_fits else None


def _splits(one: _Sizes, factor: int) -> bool:
    return factorized(one.out[0] * one.out[1], factor) == one.out and (
        factorized(one.inputs[0] * one.inputs[1], factor) == one.inputs
    )


def factorized(size: int, factor: int) -> tuple[int, int]:
    """``size`` as a product: first the factor where it divides, else the largest divisor up to it and to √size."""
    if factor > 0 and size % factor == 0:
        return factor, size // factor
    most = size if factor == -1 else factor
    small = max(one for one in range(1, int(size**0.5) + 1) if size % one == 0 and one <= most)
    return small, size // small
