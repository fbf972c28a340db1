"""Each optimizer on the flat buffer is its library's own on separate tensors, and its state comes back exactly."""

from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from torch import nn

from detour.errors import ConfigError
from detour.specs import OptimSpec
from detour.training import optimizers
from detour.training.flat import FlatParameters, ParameterGroup
from detour.training.library_optim import ScheduleFree, new_optimizer
from detour.training.optim import FlatOptimizer
from detour.training.optimizers import OPTIMIZERS, OptimizerName, default_rate, require_package

NAMES = get_args(OptimizerName)


def needs(name: OptimizerName) -> None:
    if name == "adamw8bit":
        pytest.importorskip("bitsandbytes", reason="125 MB installed; an extra")


def some_parameters(size: int = 40) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(size, 6), (6, size), (size, 3, 2, 2), (size,)]
    return [nn.Parameter(torch.randn(*shape, generator=generator)) for shape in shapes]


def flat_of(parameters: list[nn.Parameter], *, rate: float = 1.0) -> FlatParameters:
    return FlatParameters(
        [ParameterGroup("a", tuple(parameters[:2])), ParameterGroup("b", tuple(parameters[2:]), rate=rate)]
    )


def loss_of(parameters: list[nn.Parameter], step: int = 0) -> torch.Tensor:
    return sum(((i + 1 + step) * p.sin()).mean() for i, p in enumerate(parameters))  # type: ignore[return-value]


def advance(flat: FlatParameters, optimizer: FlatOptimizer, steps: range, *, lr: float = 0.01) -> None:
    for step in steps:
        loss_of(flat.parameters, step).backward()
        optimizer.update(lr * (1 + step % 3))


@pytest.mark.parametrize("name", NAMES)
def test_state_put_back_continues_bit_for_bit(name: OptimizerName) -> None:
    needs(name)
    spec = OptimSpec(name=name)
    straight = flat_of(some_parameters(2000))
    optimizer = new_optimizer(straight, spec)
    advance(straight, optimizer, range(7))

    first = flat_of(some_parameters(2000))
    before = new_optimizer(first, spec)
    advance(first, before, range(3))
    saved = {key: tensor.clone() for key, tensor in before.tensors().items()}
    second = flat_of(some_parameters(2000))
    second.load(first.values)
    resumed = new_optimizer(second, spec)
    advance(second, resumed, range(2))  # whatever it did before is forgotten
    second.load(first.values)
    resumed.load(saved, updates=3)
    assert {k: v.tolist() for k, v in resumed.tensors().items()} == {k: v.tolist() for k, v in saved.items()}
    advance(second, resumed, range(3, 7))
    assert torch.equal(straight.values, second.values)
    assert torch.equal(_used(straight, optimizer), _used(second, resumed))


def _used(flat: FlatParameters, optimizer: FlatOptimizer) -> torch.Tensor:
    average = optimizer.averaged()
    return flat.values if average is None else average


@pytest.mark.parametrize("name", NAMES)
def test_state_before_the_first_update_is_put_back_too(name: OptimizerName) -> None:
    needs(name)
    flat = flat_of(some_parameters())
    optimizer = new_optimizer(flat, OptimSpec(name=name))
    start, state = flat.values.detach().clone(), dict(optimizer.tensors())
    advance(flat, optimizer, range(2))
    after = flat.values.detach().clone()
    flat.load(start)
    optimizer.load(state, updates=0)
    advance(flat, optimizer, range(2))
    assert torch.equal(flat.values, after)


def _adafactor(groups: Any) -> Any:
    from transformers.optimization import Adafactor

    return Adafactor(groups, lr=1.0, weight_decay=0.1, scale_parameter=False, relative_step=False)


def _lion(groups: Any) -> Any:
    from lion_pytorch import Lion

    return Lion(groups, betas=(0.9, 0.99), weight_decay=0.1)


def _schedule_free(groups: Any) -> Any:
    from schedulefree import AdamWScheduleFree

    optimizer = AdamWScheduleFree(groups, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1)
    optimizer.train()
    return optimizer


def _prodigy(groups: Any) -> Any:
    from prodigyopt import Prodigy

    return Prodigy(groups, weight_decay=0.1, use_bias_correction=True, safeguard_warmup=True)


@pytest.mark.parametrize(
    ("name", "make", "rate"),
    [
        ("adafactor", _adafactor, 4.0),
        ("lion", _lion, 4.0),
        ("schedule_free", _schedule_free, 4.0),
        ("prodigy", _prodigy, 1.0),
    ],
)
def test_updates_are_those_of_the_library_on_separate_tensors_at_each_groups_rate(
    name: OptimizerName, make: Callable[[Any], Any], rate: float
) -> None:
    mine, theirs = some_parameters(), some_parameters()
    flat = flat_of(mine, rate=rate)
    optimizer = new_optimizer(flat, OptimSpec(name=name, weight_decay=0.1))
    reference = make([{"params": theirs[:2]}, {"params": theirs[2:]}])
    lr = 1.0 if name == "prodigy" else 0.01
    for step in range(6):
        now = lr * (1 + step) / 6  # a warm-up
        loss_of(flat.parameters, step).backward()
        optimizer.update(now)
        reference.zero_grad()
        loss_of(theirs, step).backward()
        reference.param_groups[0]["lr"], reference.param_groups[1]["lr"] = now, now * rate
        reference.step()
    assert any(not torch.equal(a, b) for a, b in zip(theirs, some_parameters(), strict=True))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_8_bit_adamw_follows_adamw() -> None:
    needs("adamw8bit")
    exact, small = flat_of(some_parameters(2000)), flat_of(some_parameters(2000))
    start = exact.values.detach().clone()
    advance(exact, new_optimizer(exact, OptimSpec()), range(20), lr=1e-3)
    optimizer = new_optimizer(small, OptimSpec(name="adamw8bit"))
    advance(small, optimizer, range(20), lr=1e-3)
    assert optimizer.tensors()["0.state1"].dtype == torch.uint8
    with torch.no_grad():
        moved, wrong = (exact.values - start).norm(), (exact.values - small.values).norm()
    assert 0 < float(wrong / moved) < 0.05


def test_the_average_is_the_librarys_and_leaves_the_trained_weights_alone() -> None:
    flat = flat_of(some_parameters())
    optimizer = new_optimizer(flat, OptimSpec(name="schedule_free"))
    assert isinstance(optimizer, ScheduleFree)
    assert optimizer.averaged() is None  # before the first update both are the start
    advance(flat, optimizer, range(5))
    trained = flat.values.detach().clone()
    average = optimizer.averaged()
    assert average is not None
    assert torch.equal(flat.values, trained)
    optimizer._optimizer.eval()
    assert torch.equal(flat.values, average)
    assert not torch.equal(average, trained)


def test_warmup_of_the_run_is_the_warmup_of_schedule_free() -> None:
    """The library weighs steps by their rate, whether it warms up itself or is handed smaller rates."""
    from schedulefree import AdamWScheduleFree

    mine, theirs = some_parameters(), some_parameters()
    flat = flat_of(mine)
    optimizer = new_optimizer(flat, OptimSpec(name="schedule_free", weight_decay=0.0))
    reference = AdamWScheduleFree(theirs, lr=0.01, warmup_steps=4)
    reference.train()
    for step in range(8):
        loss_of(flat.parameters).backward()
        optimizer.update(0.01 * min(1.0, (step + 1) / 4))
        reference.zero_grad()
        loss_of(theirs).backward()
        reference.step()
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_prodigy_refuses_parts_with_rates_of_their_own() -> None:
    with pytest.raises(ConfigError, match=r"one rate for everything.*b ×4"):
        new_optimizer(flat_of(some_parameters(), rate=4.0), OptimSpec(name="prodigy"))


def test_rates_that_are_left_to_the_optimizer() -> None:
    rates = {name: default_rate(name, 1e-4) for name in NAMES}
    assert rates["adamw"] == rates["adamw8bit"] == rates["adafactor"] == 1e-4
    assert rates["lion"] == pytest.approx(2e-5)
    assert rates["prodigy"] == 1.0


def test_a_missing_package_is_named_with_its_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers.importlib.util, "find_spec", lambda name: None)
    for name in NAMES:
        if OPTIMIZERS[name].extra:
            with pytest.raises(ConfigError, match=rf"pip install detour-lora\[{OPTIMIZERS[name].extra}\]"):
                require_package(name)


def test_prodigy_takes_its_beginning_and_its_factor_and_tells_the_rate_that_it_took() -> None:
    """One step from rest moves by ``d · lr`` alone: Adam's first step is the sign of the gradient."""
    for d0, d_coef in ((1e-3, 1.0), (1e-4, 1.0), (1e-3, 2.0)):
        flat = flat_of(some_parameters())
        optimizer = new_optimizer(flat, OptimSpec(name="prodigy", d0=d0, d_coef=d_coef, weight_decay=0.0))
        assert optimizer.found_rate() == d0
        before = flat.values.clone()
        loss_of(flat.parameters).backward()
        optimizer.update(0.5)
        moved = (flat.values - before).abs()
        assert torch.allclose(moved[moved > 0].median(), torch.tensor(d0 * 0.5), rtol=1e-2)
    coefs = []
    for d_coef in (1.0, 4.0):
        flat = flat_of(some_parameters())
        optimizer = new_optimizer(flat, OptimSpec(name="prodigy", d0=1e-4, d_coef=d_coef))
        advance(flat, optimizer, range(12), lr=1.0)
        coefs.append(optimizer.found_rate())
    assert coefs[1] > coefs[0] > 1e-4  # type: ignore[operator]


def test_runs_of_before_begin_where_the_library_does() -> None:
    optimizer = new_optimizer(flat_of(some_parameters()), OptimSpec(name="prodigy"))
    assert optimizer.found_rate() == 1e-6
    assert new_optimizer(flat_of(some_parameters()), OptimSpec()).found_rate() is None
