import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from detour.adapters.attach import Attached, attach_adapter, attach_new
from detour.adapters.gradient_proof import hash_base, prove_gradients
from detour.errors import GradientProofFailed
from tests.adapters.small_model import LAYERS, At, random_adapter, small_input, small_model


def trained(model: nn.Module, layers: list[At] | None = None) -> Attached:
    return attach_new(model, "unet", layers or LAYERS, rank=4, alpha=4.0)


def loss_of(model: nn.Module):  # type: ignore[no-untyped-def]
    return lambda: model(small_input()).square().mean()


class Chain(nn.Module):
    """Two layers one after the other; ``cut`` decides what happens between them."""

    def __init__(self, cut=lambda x: x) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.first, self.second, self.cut = nn.Linear(4, 4), nn.Linear(4, 4), cut
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.cut(self.first(x)))


CHAIN = [At("first"), At("second")]


def prove_chain(model: Chain, **settings):  # type: ignore[no-untyped-def]
    attached = trained(model, CHAIN)
    return prove_gradients(model, attached, lambda: model(torch.ones(2, 4)).square().mean(), **settings)


def test_every_factor_is_reached_though_up_starts_at_zero() -> None:
    model = small_model()
    report = prove_gradients(model, trained(model), loss_of(model))
    assert (report.adapter_tensors, report.adapter_tensors_with_gradient) == (8, 8)
    assert report.base_tensors_with_gradient == 0
    assert report.dead_by_structure == ()


def test_factors_gradients_and_random_numbers_are_as_before() -> None:
    model = small_model()
    attached = trained(model)
    buffer = torch.arange(8.0)
    for index, parameter in enumerate(attached.parameters()):
        parameter.grad = buffer[index].expand(parameter.shape)
    before = [(p, p.detach().clone(), p.grad) for p in attached.parameters()]
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    prove_gradients(model, attached, loss_of(model))
    assert torch.equal(torch.rand(2), expected)
    assert all(torch.equal(p, value) and p.grad is gradient for p, value, gradient in before)


def test_factors_come_back_when_the_loss_raises() -> None:
    model = small_model()
    attached = trained(model)
    before = [p.detach().clone() for p in attached.parameters()]

    def fail() -> Tensor:
        raise KeyError

    with pytest.raises(KeyError):
        prove_gradients(model, attached, fail)
    assert all(torch.equal(p, value) for p, value in zip(attached.parameters(), before, strict=True))


CUTS = {"detached": lambda x: x.detach(), "times zero": lambda x: x * 0.0, "rounding": lambda x: x * 1e-9}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_branch_that_is_cut_off_is_found_and_named(cut) -> None:  # type: ignore[no-untyped-def]
    class Branches(Chain):
        def forward(self, x: Tensor) -> Tensor:
            return self.second(x) + self.cut(self.first(x))

    lost = r"2 of 4 adapter tensors get no gradient: unet\.first \(down\), unet\.first \(up\);"
    with pytest.raises(GradientProofFailed, match=lost):
        prove_chain(Branches(cut))
    assert prove_chain(Branches()).adapter_tensors == 4


def test_more_than_half_of_the_layers_cut_off_is_found() -> None:
    with pytest.raises(GradientProofFailed, match=r"4 of 4 adapter tensors get no gradient"):
        prove_chain(Chain(lambda x: x * 0.0))


def test_loss_that_reaches_nothing_is_refused_with_the_usual_cause() -> None:
    model = small_model()
    with pytest.raises(GradientProofFailed, match=r"depends on none of the 4 adapter layers.*checkpointing"):
        prove_gradients(model, trained(model), lambda: loss_of(model)().detach())


@pytest.mark.parametrize(("use_reentrant", "found"), [(True, True), (False, False)])
def test_reentrant_checkpointing_with_inputs_that_need_no_gradient_is_found(
    use_reentrant: bool, found: bool
) -> None:
    class Checkpointed(Chain):
        def forward(self, x: Tensor) -> Tensor:
            return self.second(checkpoint(self.first, x, use_reentrant=use_reentrant))

    if not found:
        assert prove_chain(Checkpointed()).adapter_tensors == 4
        return
    with (
        pytest.warns(UserWarning, match="None of the inputs have requires_grad"),
        pytest.raises(GradientProofFailed, match=r"2 of 4 .*unet.first \(down\), unet.first \(up\);"),
    ):
        prove_chain(Checkpointed())


def test_layers_dead_by_structure_are_listed_and_not_counted() -> None:
    report = prove_chain(Chain(lambda x: x.detach()), dead_by_structure=[r"unet\.fir.*", r"unet\.secon"])
    assert report.dead_by_structure == ("unet.first",)
    assert report.adapter_tensors == 2
    with pytest.raises(GradientProofFailed, match="every attached layer is dead"):
        prove_chain(Chain(), dead_by_structure=[r"unet\..*"])


def test_gradient_that_is_not_finite_is_refused() -> None:
    with pytest.raises(GradientProofFailed, match="not finite"):
        prove_chain(Chain(lambda x: x * float("inf")))


def test_base_tensor_with_a_gradient_is_found_and_named() -> None:
    model = small_model()
    attached = trained(model)
    model.blocks[0].to_out[0].base_layer.bias.requires_grad_(True)
    with pytest.raises(GradientProofFailed, match=r"1 tensors of the frozen base .*to_out.0.base_layer.bias"):
        prove_gradients(model, attached, loss_of(model))


def test_base_hash_sees_one_bit_and_not_the_adapter() -> None:
    model = small_model().to(torch.bfloat16)
    before = hash_base(model)
    attached = attach_adapter({"unet": model}, random_adapter())
    assert hash_base(model) == before
    bits = model.proj_in.base_layer.weight.data.view(torch.int16)
    bits[0, 0] ^= 1
    assert hash_base(model) != before
    bits[0, 0] ^= 1
    attached.detach()
    assert hash_base(model) == before
