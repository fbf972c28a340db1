import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from detour.adapters.arithmetic import count, file_bytes, lora_parameters, stabilised_alpha, usable_rank
from detour.adapters.targets import AdaptableLayer, adaptable_layers, select
from detour.bases.base import open_base

WIDTHS = st.integers(1, 4096)


@given(WIDTHS, WIDTHS, st.integers(1, 128), st.sampled_from([1, 3]))
def test_parameters_are_those_of_the_two_factors(inner: int, outer: int, rank: int, side: int) -> None:
    layer = AdaptableLayer(path="x", kind="conv", in_features=inner, out_features=outer, kernel=(side, side))
    down, up = (rank, inner, side, side), (outer, rank, 1, 1)
    assert lora_parameters(layer, rank) == _size(down) + _size(up)


@pytest.mark.parametrize(("alpha", "rank"), [(1.0, 4), (8.0, 8), (3.0, 10)])
def test_rank_stabilised_scale_is_pefts(alpha: float, rank: int) -> None:
    config = LoraConfig(r=rank, lora_alpha=alpha, use_rslora=True, target_modules=["0"])
    model = inject_adapter_in_model(config, nn.Sequential(nn.Linear(12, 12)))
    assert stabilised_alpha(alpha, rank) / rank == pytest.approx(model[0].scaling["default"])


def test_ends_of_sd15_cap_the_rank() -> None:
    layers = {layer.path: layer for layer in adaptable_layers(open_base("sd15").meta_network())}
    assert usable_rank(layers["conv_out"]) == 4
    assert usable_rank(layers["conv_in"]) == 36


@pytest.mark.parametrize(("dtype", "size"), [("fp32", 3_188_736), ("fp16", 1_594_368), ("bf16", 1_594_368)])
def test_file_size_follows_the_dtype(dtype: str, size: int) -> None:
    attention = select(adaptable_layers(open_base("sd15").meta_network()), "attn")
    assert file_bytes(attention, 4, dtype) == size


def test_count_is_linear_in_the_rank() -> None:
    layers = adaptable_layers(open_base("pocket").meta_network())
    assert count(layers, 6) == 6 * count(layers, 1)


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size
