import pytest
import torch

from detour.adapters.adapter import Adapter, LoraLayer
from detour.adapters.attach import attach_adapter
from detour.adapters.delta import largest_relative_difference, lora_delta, merge_into
from detour.adapters.layers import DoraLayer
from detour.errors import AdapterError, ShapeMismatch
from tests.adapters.kinds import LINEAR, dora, lora
from tests.adapters.small_model import random_adapter, small_input, small_model


def test_delta_is_alpha_over_rank_times_up_down() -> None:
    delta = lora_delta(torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[3.0, 1.0]]), alpha=4.0)
    assert delta.tolist() == [[6.0, 14.0]]


def test_delta_of_a_convolution_is_the_convolution_of_both() -> None:
    down, up = torch.randn(2, 3, 3, 3), torch.randn(5, 2, 1, 1)
    x = torch.randn(1, 3, 6, 6)
    direct = torch.nn.functional.conv2d(torch.nn.functional.conv2d(x, down), up)
    assert torch.allclose(torch.nn.functional.conv2d(x, lora_delta(down, up, alpha=2.0)), direct, atol=1e-4)


def test_delta_of_half_precision_factors_is_float32() -> None:
    assert lora_delta(torch.ones(1, 2).half(), torch.ones(2, 1).half(), alpha=1.0).dtype == torch.float32


def test_factors_that_disagree_on_the_rank_are_refused() -> None:
    with pytest.raises(ShapeMismatch):
        lora_delta(torch.ones(2, 3), torch.ones(3, 3), alpha=1.0)


@pytest.mark.parametrize("weight", [1.0, 0.4, -1.0])
def test_merge_equals_adapter_forward(weight: float) -> None:
    x, adapter = small_input(), random_adapter()
    attached_model, merged_model = small_model(), small_model()
    attach_adapter({"unet": attached_model}, adapter, weight)
    merge_into({"unet": merged_model}, adapter, weight)
    assert torch.allclose(attached_model(x), merged_model(x), atol=2e-6)
    assert not torch.allclose(small_model()(x), merged_model(x), atol=1e-2)


def test_undoing_a_merge_restores_every_bit() -> None:
    model = small_model().to(torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    merged = merge_into({"unet": model}, random_adapter())
    assert not torch.equal(model.conv_in.weight, before["conv_in.weight"])
    assert model.conv_in.weight.dtype == torch.bfloat16
    merged.undo()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_merge_with_a_layer_that_does_not_fit_changes_nothing() -> None:
    model = small_model()
    layers = dict(random_adapter().layers)
    layers["unet.gone"] = layers["unet.proj_in"]
    before = model.conv_in.weight.clone()
    with pytest.raises(AdapterError, match="no layer 'gone'"):
        merge_into({"unet": model}, Adapter(layers))
    assert torch.equal(model.conv_in.weight, before)


def test_adapters_differ_by_the_share_that_alpha_changes() -> None:
    a = random_adapter()
    doubled = {k: LoraLayer(down=v.down, up=v.up, alpha=2 * v.alpha) for k, v in a.layers.items()}
    assert largest_relative_difference(a, a) == 0.0
    assert largest_relative_difference(a, Adapter(doubled)) == pytest.approx(1.0)


def test_rescaled_factors_with_the_same_delta_do_not_differ() -> None:
    a = random_adapter()
    other = {k: LoraLayer(down=2 * v.down, up=v.up / 2, alpha=v.alpha) for k, v in a.layers.items()}
    assert largest_relative_difference(a, Adapter(other)) < 1e-6


def test_layer_missing_on_one_side_counts_as_all_lost() -> None:
    a = random_adapter()
    fewer = {key: layer for key, layer in a.layers.items() if key != "unet.conv_in"}
    assert largest_relative_difference(a, Adapter(fewer)) == 1.0
    assert largest_relative_difference(Adapter(fewer), a) == float("inf")


def test_doras_are_compared_by_direction_and_magnitude_and_with_nothing_else() -> None:
    layer, plain = dora(LINEAR), lora(LINEAR)
    larger = DoraLayer(change=layer.change, magnitude=1.25 * layer.magnitude)
    turned = DoraLayer(
        change=LoraLayer(down=plain.down, up=plain.up, alpha=2 * plain.alpha), magnitude=layer.magnitude
    )
    first = Adapter({"unet.x": layer})
    assert largest_relative_difference(first, first) == 0.0
    assert largest_relative_difference(first, Adapter({"unet.x": larger})) == pytest.approx(0.25)
    assert largest_relative_difference(first, Adapter({"unet.x": turned})) == pytest.approx(1.0)
    assert largest_relative_difference(first, Adapter({"unet.x": plain})) == float("inf")
    assert largest_relative_difference(Adapter({}), first) == float("inf")
    assert largest_relative_difference(first, Adapter({})) == 1.0
