import itertools

import pytest
import torch
from torch import Tensor, nn

from detour.errors import TrainingDiverged
from detour.specs import OptimSpec
from detour.training.ema import Ema
from detour.training.flat import FlatParameters, ParameterGroup
from detour.training.loop import StepReport, TrainState, attempt, fit
from detour.training.loss_scale import LossScale
from detour.training.optim import FlatAdamW


def new_state(lr: float = 0.1) -> TrainState:
    flat = FlatParameters([ParameterGroup("all", (nn.Parameter(torch.tensor([2.0, -1.0])),))])
    return TrainState(flat=flat, optimizer=FlatAdamW(flat, OptimSpec(weight_decay=0.0)), rate=lambda _: lr)


class Recorder:
    def __init__(self) -> None:
        self.reports: list[StepReport] = []

    def on_step(self, state: TrainState, report: StepReport) -> None:
        assert state.step == report.step
        self.reports.append(report)


def test_fit_goes_downhill_and_reports_every_step() -> None:
    state, recorder = new_state(), Recorder()
    fit(state, lambda step, micro: state.flat.parameters[0].square().sum(), [recorder], steps=30)
    assert [r.step for r in recorder.reports] == list(range(1, 31))
    assert recorder.reports[-1].loss < recorder.reports[0].loss / 10


def test_two_half_batches_give_the_gradient_of_one_full_batch() -> None:
    rows = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))

    def run(grad_accum: int) -> Tensor:
        state, recorder = new_state(), Recorder()
        size = 8 // grad_accum

        def loss_fn(step: int, micro: int) -> Tensor:
            batch = rows[micro * size : (micro + 1) * size]
            return (batch @ state.flat.parameters[0]).square().mean()

        fit(state, loss_fn, [recorder], steps=5, grad_accum=grad_accum)
        # AdamW moves the same whatever the gradients are multiplied by: their norm and the loss say more.
        figures = torch.tensor([(report.loss, report.grad_norm) for report in recorder.reports])
        return torch.cat([figures.flatten(), state.flat.values.detach()])

    torch.testing.assert_close(run(1), run(2), rtol=1e-6, atol=1e-7)


def test_an_update_has_the_rate_of_its_own_step_which_is_the_one_that_is_reported() -> None:
    state, recorder, moved = new_state(), Recorder(), [torch.tensor([2.0, -1.0])]
    rates = [0.0, 0.1, 0.0, 0.2]
    state.rate = lambda step: rates[step] if step < len(rates) else 0.0

    def loss_fn(step: int, micro: int) -> Tensor:
        moved.append(state.flat.values.detach().clone())
        return state.flat.parameters[0].square().sum()

    fit(state, loss_fn, [recorder], steps=4)
    moved.append(state.flat.values.detach().clone())
    assert [report.lr for report in recorder.reports] == rates
    assert [not torch.equal(a, b) for a, b in itertools.pairwise(moved[1:])] == [False, True, False, True]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_loss_stops_before_the_update(bad: float) -> None:
    state, recorder = new_state(), Recorder()
    kept: list[Tensor] = []

    def loss_fn(step: int, micro: int) -> Tensor:
        kept.append(state.flat.values.detach().clone())
        loss = state.flat.parameters[0].square().sum()
        return loss * bad if step == 3 else loss

    with pytest.raises(TrainingDiverged, match="step 4"):
        fit(state, loss_fn, [recorder], steps=10)
    assert state.step == 3
    assert len(recorder.reports) == 3
    assert torch.equal(state.flat.values, kept[-1])
    assert not state.flat.grads.any()


def test_non_finite_gradient_with_a_finite_loss_stops_too() -> None:
    state = new_state()

    def loss_fn(step: int, micro: int) -> Tensor:
        return (state.flat.parameters[0] * 0.0).abs().sqrt().sum()  # 0 with gradient inf * 0

    with pytest.raises(TrainingDiverged, match="gradient norm nan"):
        fit(state, loss_fn, [], steps=1)
    assert torch.equal(state.flat.values, torch.tensor([2.0, -1.0]))


def test_an_overflow_makes_the_same_step_again_and_moves_no_weight() -> None:
    plain, scaled, recorder = new_state(), new_state(), Recorder()
    scaled.scale = LossScale(scale=2.0**12)
    asked: list[int] = []

    def loss_fn(step: int, micro: int) -> Tensor:
        asked.append(step)
        weights = scaled.flat.parameters[0]
        weights.register_hook(lambda gradient: _fp16_overflow(gradient, limit=2.0**11))
        return weights.square().sum()

    fit(scaled, loss_fn, [recorder], steps=3)
    fit(plain, lambda step, micro: plain.flat.parameters[0].square().sum(), [], steps=3)
    assert asked[0] == asked[1] == asked[2] == 0  # 2^12 and 2^11 times 4 overflow
    assert asked[-1] == 2
    assert scaled.scale.repeated == recorder.reports[0].repeated > 0
    assert recorder.reports[-1].loss_scale == scaled.scale.scale
    torch.testing.assert_close(scaled.flat.values, plain.flat.values, rtol=1e-6, atol=0)


def _fp16_overflow(gradient: Tensor, *, limit: float) -> Tensor:
    return torch.where(gradient.abs() > limit, torch.full_like(gradient, float("inf")), gradient)


def test_gradients_that_overflow_at_any_scale_stop_the_run() -> None:
    state = new_state()
    state.scale = LossScale()

    def loss_fn(step: int, micro: int) -> Tensor:
        weights = state.flat.parameters[0]
        weights.register_hook(lambda gradient: gradient * float("inf"))
        return weights.square().sum()

    with pytest.raises(TrainingDiverged, match=r"step 1: .* at loss scale 1;"):
        fit(state, loss_fn, [], steps=1)
    assert torch.equal(state.flat.values, torch.tensor([2.0, -1.0]))
    assert not state.flat.grads.any()


def test_a_loss_that_is_not_finite_is_not_tried_again() -> None:
    state, asked = new_state(), []
    state.scale = LossScale()

    def loss_fn(step: int, micro: int) -> Tensor:
        asked.append(step)
        return state.flat.parameters[0].sum() * float("nan")

    with pytest.raises(TrainingDiverged, match="loss is nan"):
        fit(state, loss_fn, [], steps=1)
    assert asked == [0]


def test_average_is_shipped_and_the_trained_weights_come_back_bit_for_bit() -> None:
    state = new_state()
    state.ema = Ema(state.flat.values, decay=0.9)
    fit(state, lambda step, micro: state.flat.parameters[0].square().sum(), [], steps=5)
    trained = state.flat.values.detach().clone()
    with state.as_shipped():
        assert torch.equal(state.flat.parameters[0], state.ema.values)
        assert not torch.equal(state.flat.values, trained)
    assert torch.equal(state.flat.values, trained)


def test_state_put_back_continues_bit_for_bit_with_average_and_scale() -> None:
    def started() -> TrainState:
        state = new_state()
        state.ema, state.scale = Ema(state.flat.values, decay=0.9), LossScale(interval=2)
        return state

    def advance(state: TrainState, steps: int) -> None:
        fit(state, lambda step, micro: (state.flat.parameters[0].sin() * (step + 1)).sum(), [], steps=steps)

    straight, first, second = started(), started(), started()
    advance(straight, 7)
    advance(first, 3)
    second.load({name: tensor.clone() for name, tensor in first.tensors().items()}, step=3)
    advance(second, 7)
    assert torch.equal(straight.shipped(), second.shipped())
    assert torch.equal(straight.flat.values, second.flat.values)
    assert straight.scale == second.scale


def test_a_step_reads_from_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU every read waits for all that was asked for before."""
    state, reads = new_state(), []
    for name in ("item", "tolist", "__float__", "__bool__"):
        plain = getattr(Tensor, name)
        monkeypatch.setattr(
            Tensor, name, lambda self, *a, _n=name, _p=plain: (reads.append(_n), _p(self, *a))[1]
        )
    attempt(
        state, lambda step, micro: state.flat.parameters[0].square().sum(), grad_accum=4, max_grad_norm=1.0
    )
    assert reads == ["tolist"]
