import pytest
import torch
from torch import nn

from detour.specs import OptimSpec
from detour.training.flat import FlatParameters, ParameterGroup
from detour.training.optim import FlatAdamW


def some_parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(*shape, generator=generator)) for shape in [(3, 4), (5,), (2, 2, 2)]]


def one_group(parameters: list[nn.Parameter]) -> FlatParameters:
    return FlatParameters([ParameterGroup("all", tuple(parameters))])


def loss_of(parameters: list[nn.Parameter]) -> torch.Tensor:
    return sum(((i + 1) * p.sin()).sum() for i, p in enumerate(parameters))  # type: ignore[return-value]


def test_parameters_keep_their_values_and_become_views() -> None:
    parameters = some_parameters()
    before = [p.detach().clone() for p in parameters]
    flat = one_group(parameters)
    assert all(torch.equal(p, b) for p, b in zip(parameters, before, strict=True))
    flat.load(torch.zeros_like(flat.values))
    assert all(not p.any() for p in parameters)


def test_backward_fills_the_flat_gradient() -> None:
    flat = one_group(some_parameters())
    loss_of(flat.parameters).backward()
    expected = torch.cat([((i + 1) * p.detach().cos()).reshape(-1) for i, p in enumerate(flat.parameters)])
    torch.testing.assert_close(flat.grads, expected)


def test_gradients_of_two_backwards_add_up() -> None:
    flat = one_group(some_parameters())
    loss_of(flat.parameters).backward()
    once = flat.grads.clone()
    loss_of(flat.parameters).backward()
    torch.testing.assert_close(flat.grads, 2 * once)
    flat.zero_grads()
    assert not flat.grads.any()


def test_clip_equals_torch_and_returns_the_norm_before() -> None:
    flat, plain = one_group(some_parameters()), some_parameters()
    loss_of(flat.parameters).backward()
    loss_of(plain).backward()
    reference = nn.utils.clip_grad_norm_(plain, 0.5)
    assert float(flat.clip_grads(0.5)) == pytest.approx(float(reference), rel=1e-5)
    for mine, theirs in zip(flat.parameters, plain, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-5, atol=1e-7)


def test_small_gradients_are_not_scaled() -> None:
    flat = one_group(some_parameters())
    loss_of(flat.parameters).backward()
    before = flat.grads.clone()
    flat.clip_grads(1e6)
    assert torch.equal(flat.grads, before)


def test_scaled_gradients_are_unscaled_before_they_are_clipped() -> None:
    flat, plain = one_group(some_parameters()), one_group(some_parameters())
    (1024 * loss_of(flat.parameters)).backward()
    loss_of(plain.parameters).backward()
    assert torch.equal(flat.clip_grads(0.5, scale=1024.0), plain.clip_grads(0.5))
    torch.testing.assert_close(flat.grads, plain.grads, rtol=1e-6, atol=0)


def test_a_gradient_that_left_the_buffer_is_noticed() -> None:
    flat = one_group(some_parameters())
    flat.parameters[-1].grad = torch.zeros_like(flat.parameters[-1])
    with pytest.raises(AssertionError, match="left the flat buffer"):
        flat.clip_grads(1.0)


def test_flat_adamw_equals_torch_adamw_on_separate_tensors() -> None:
    spec = OptimSpec(weight_decay=0.1)
    flat, plain = one_group(some_parameters()), some_parameters()
    mine, theirs = FlatAdamW(flat, spec), torch.optim.AdamW(plain, lr=0.01, weight_decay=0.1, fused=False)
    for _ in range(5):
        loss_of(flat.parameters).backward()
        mine.update(0.01)
        theirs.zero_grad()
        loss_of(plain).backward()
        theirs.step()
    for a, b in zip(flat.parameters, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_moments_put_back_continue_bit_for_bit() -> None:
    def advance(flat: FlatParameters, optimizer: FlatAdamW, updates: int) -> None:
        for _ in range(updates):
            loss_of(flat.parameters).backward()
            optimizer.update(0.01)

    straight = one_group(some_parameters())
    advance(straight, FlatAdamW(straight, OptimSpec()), 7)

    first = one_group(some_parameters())
    optimizer = FlatAdamW(first, OptimSpec())
    advance(first, optimizer, 3)
    second = one_group(some_parameters())
    second.load(first.values)
    resumed = FlatAdamW(second, OptimSpec())
    resumed.load(optimizer.tensors(), updates=3)
    advance(second, resumed, 4)
    assert torch.equal(straight.values, second.values)


def test_a_group_learns_at_its_own_multiple_of_the_rate() -> None:
    mine, theirs = some_parameters(), some_parameters()
    flat = FlatParameters(
        [ParameterGroup("a", tuple(mine[:1])), ParameterGroup("b", tuple(mine[1:]), rate=4.0)]
    )
    spec = OptimSpec(weight_decay=0.1)
    optimizer = FlatAdamW(flat, spec)
    groups = [{"params": theirs[:1], "lr": 0.01}, {"params": theirs[1:], "lr": 0.04}]
    reference = torch.optim.AdamW(groups, weight_decay=0.1, fused=False)
    for _ in range(5):
        loss_of(flat.parameters).backward()
        optimizer.update(0.01)
        reference.zero_grad()
        loss_of(theirs).backward()
        reference.step()
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
