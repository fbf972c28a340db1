import pytest
import torch
from torch import Tensor, nn

from detour.errors import TrainingDiverged
from detour.specs import OptimSpec
from detour.training.flat import FlatParameters, ParameterGroup
from detour.training.loop import StepReport, TrainState, fit
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
        state = new_state()
        size = 8 // grad_accum

        def loss_fn(step: int, micro: int) -> Tensor:
            batch = rows[micro * size : (micro + 1) * size]
            return (batch @ state.flat.parameters[0]).square().mean()

        fit(state, loss_fn, [], steps=5, grad_accum=grad_accum)
        return state.flat.values.detach().clone()

    torch.testing.assert_close(run(1), run(2), rtol=1e-6, atol=1e-7)


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
