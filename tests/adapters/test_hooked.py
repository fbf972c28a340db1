"""What PEFT cannot stack is added by hooks: it must be the merged weight, to rounding, whatever else is there."""

import pytest
import torch
from torch import nn

from detour.adapters.adapter import Adapter
from detour.adapters.attach import attach_adapter
from detour.adapters.delta import merge_into
from detour.errors import AdapterError, ShapeMismatch
from tests.adapters.kinds import CONV, EVERY, IDS, LINEAR, dora, dora_loha, loha, lokr, lora, numbers


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(CONV[1], CONV[0], 3, stride=2, padding=1)
        self.linear = nn.Linear(LINEAR[1], LINEAR[0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.conv(x).flatten(2).transpose(1, 2))


def pair() -> Pair:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Pair().eval().requires_grad_(False)


X = numbers(2, CONV[1], 8, 8)


def one(make, shape) -> Adapter:  # type: ignore[no-untyped-def]
    return Adapter({"unet.linear" if shape == LINEAR else "unet.conv": make(shape)})


@pytest.mark.parametrize(
    ("name", "make", "shape"),
    [*EVERY, ("dora_loha", dora_loha, LINEAR), ("dora_loha", dora_loha, CONV)],
    ids=[*IDS, "dora_loha-linear", "dora_loha-conv"],
)
@pytest.mark.parametrize("weight", [1.0, 0.4])
def test_attached_equals_merged_at_any_weight(name, make, shape, weight: float) -> None:  # type: ignore[no-untyped-def]
    adapter, attached, merged = one(make, shape), pair(), pair()
    attach_adapter({"unet": attached}, adapter, weight)
    merge_into({"unet": merged}, adapter, weight)
    assert torch.allclose(attached(X), merged(X), atol=1e-5), name
    assert not torch.allclose(pair()(X), merged(X), atol=1e-2)


@pytest.mark.parametrize("shape", [LINEAR, CONV])
def test_dora_answers_as_pefts_own_module_does(shape: tuple[int, ...]) -> None:
    from peft import LoraConfig, get_peft_model

    adapter, model = one(dora, shape), pair()
    attach_adapter({"unet": model}, adapter)
    ((key, layer),) = adapter.layers.items()
    path = key.removeprefix("unet.")
    config = LoraConfig(r=3, lora_alpha=5.0, target_modules=[path], use_dora=True)
    theirs = get_peft_model(pair(), config).eval()
    held = theirs.base_model.model.get_submodule(path)
    with torch.no_grad():
        for target, name in (
            (held.lora_A, "down"),
            (held.lora_B, "up"),
            (held.lora_magnitude_vector, "magnitude"),
        ):
            weight = target["default"].weight
            weight.copy_(layer.tensors[name].reshape(weight.shape))
    assert torch.allclose(model(X), theirs(X), atol=1e-5)


@pytest.mark.parametrize("make", [dora, loha, lokr])
def test_weight_zero_and_disabled_are_the_base_bit_for_bit(make) -> None:  # type: ignore[no-untyped-def]
    model = pair()
    plain = model(X)
    attached = attach_adapter({"unet": model}, one(make, LINEAR))
    changed = model(X)
    assert not torch.allclose(plain, changed, atol=1e-2)
    with attached.disabled():
        assert torch.equal(model(X), plain)
    assert torch.equal(model(X), changed)
    attached.set_weight(0.0)
    assert torch.equal(model(X), plain)


def test_adapters_of_any_kind_stack_on_one_layer_in_any_order_and_leave_no_trace() -> None:
    kinds = (lora, dora, loha, lokr)
    weights = {make: 0.5 + 0.1 * index for index, make in enumerate(kinds)}

    def stacked(order):  # type: ignore[no-untyped-def]
        model = pair()
        attached = [
            attach_adapter({"unet": model}, one(make, LINEAR), weights[make], name=make.__name__)
            for make in order
        ]
        return model, attached

    expected = pair()
    base = expected.linear.weight.clone()
    for make in kinds:
        expected.linear.weight.add_(weights[make] * make(LINEAR).delta(base))
    for order in (kinds, kinds[::-1]):
        model, attached = stacked(order)
        assert torch.allclose(model(X), expected(X), atol=1e-5)
        for one_attached in attached:
            one_attached.detach()
        assert torch.equal(model(X), pair()(X))
        assert not model.linear._forward_hooks
        assert type(model.linear) is nn.Linear


def test_attached_layers_come_back_as_they_went_in() -> None:
    adapter = Adapter({"unet.linear": loha(LINEAR), "unet.conv": lora(CONV)})
    attached = attach_adapter({"unet": pair()}, adapter)
    assert list(attached.factors) == ["unet.conv"]
    back = attached.to_adapter()
    assert set(back.layers) == set(adapter.layers)
    for key, layer in adapter.layers.items():
        for name, tensor in layer.tensors.items():
            assert torch.equal(back.layers[key].tensors[name], tensor)


def test_the_bases_dtype_is_kept() -> None:
    model = pair().to(torch.bfloat16)
    attach_adapter({"unet": model}, Adapter({"unet.linear": lokr(LINEAR), "unet.conv": dora(CONV)}))
    assert model(X.to(torch.bfloat16)).dtype == torch.bfloat16


def test_what_does_not_fit_or_is_there_already_is_refused_and_nothing_attached() -> None:
    model = pair()
    misfit = Adapter({"unet.linear": loha(LINEAR), "unet.conv": loha((6, 4, 1, 1))})
    with pytest.raises(ShapeMismatch, match=r"'unet.conv' maps 4 to 6 .* 36 to 6"):
        attach_adapter({"unet": model}, misfit)
    assert not model.linear._forward_hooks
    attach_adapter({"unet": model}, one(loha, LINEAR), name="a.b")
    with pytest.raises(AdapterError, match="is attached already"):
        attach_adapter({"unet": model}, one(lokr, LINEAR), name="a.b")


def test_training_needs_plain_factors_and_says_so() -> None:
    with pytest.raises(AdapterError, match=r"training needs plain LoRA factors; 1 loha of 1 layers are not"):
        attach_adapter({"unet": pair()}, one(loha, LINEAR), trainable=True)
    attached = attach_adapter({"unet": pair()}, one(lora, LINEAR))
    with pytest.raises(AdapterError, match="loading into an attached adapter needs plain LoRA"):
        attached.load(one(dora, LINEAR))


def test_an_adapter_counts_its_kinds() -> None:
    adapter = Adapter({"unet.a": loha(LINEAR), "unet.b": loha(LINEAR), "unet.c": lora(LINEAR)})
    assert dict(adapter.kinds) == {"loha": 2, "lora": 1}
    assert set(Adapter({"unet.c": lora(LINEAR)}).plain_layers()) == {"unet.c"}
