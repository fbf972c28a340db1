import pytest
import torch

from detour.adapters.layers import DoraLayer
from detour.errors import AdapterError, ShapeMismatch
from tests.adapters.kinds import CONV, EVERY, IDS, LINEAR, dora, lora, numbers


@pytest.mark.parametrize(("name", "make", "shape"), EVERY, ids=IDS)
def test_every_kind_tells_the_size_of_its_change_from_shapes_alone(name, make, shape) -> None:  # type: ignore[no-untyped-def]
    layer = make(shape)
    delta = layer.delta(numbers(*shape))
    assert layer.kind == name.partition("_")[0]
    assert delta.dtype == torch.float32
    assert delta.numel() == numbers(*shape).numel()
    height, width = layer.kernel
    assert (layer.out_features, layer.in_features * height * width) == (shape[0], delta[0].numel())
    assert layer.num_parameters == sum(tensor.numel() for tensor in layer.tensors.values())


@pytest.mark.parametrize("shape", [LINEAR, CONV])
def test_dora_gives_each_output_row_its_magnitude_and_the_direction_of_base_plus_change(
    shape: tuple[int, ...],
) -> None:
    base, layer = numbers(*shape, seed=9), dora(shape)
    changed = (base + layer.delta(base)).flatten(1)
    directed = (base + layer.change.delta()).flatten(1)
    assert torch.allclose(changed.norm(dim=1), layer.magnitude, atol=1e-6)
    assert torch.allclose(torch.cosine_similarity(changed, directed), torch.ones(shape[0]), atol=1e-6)


def test_dora_of_the_bases_own_norms_and_no_change_is_the_base() -> None:
    base, plain = numbers(*LINEAR), lora(LINEAR)
    change = type(plain)(down=plain.down, up=torch.zeros_like(plain.up), alpha=1.0)
    assert DoraLayer(change=change, magnitude=base.norm(dim=1)).delta(base).abs().max() < 1e-6


def test_dora_of_a_row_of_zeros_stays_finite() -> None:
    plain = lora(LINEAR)
    change = type(plain)(down=plain.down, up=torch.zeros_like(plain.up), alpha=1.0)
    delta = DoraLayer(change=change, magnitude=torch.ones(LINEAR[0])).delta(torch.zeros(LINEAR))
    assert torch.equal(delta, torch.zeros(LINEAR))


def test_dora_without_a_base_says_that_it_needs_one() -> None:
    with pytest.raises(AdapterError, match="depends on the base's own weight"):
        dora(LINEAR).delta()


def test_one_magnitude_for_each_output_or_none_at_all() -> None:
    with pytest.raises(ShapeMismatch, match="for 8 outputs"):
        DoraLayer(change=lora(LINEAR), magnitude=torch.ones(6))
