"""The training loop. It knows steps, not images: it is handed a loss, and everything optional is an observer."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from detour.errors import TrainingDiverged
from detour.training.flat import FlatParameters
from detour.training.optim import FlatOptimizer

LossFn = Callable[[int, int], Tensor]
"""(step, micro) → scalar loss with a graph; a pure function of its arguments and of the adapter's weights."""


@dataclass(frozen=True)
class StepReport:
    """What one step did. ``step`` counts finished updates, from 1."""

    step: int
    loss: float
    grad_norm: float
    lr: float

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


@dataclass
class TrainState:
    """What changes during a run: the flat weights, the optimizer's state and how many updates were made.

    Attributes:
        enough: an observer found that more steps would not help; the loop ends after the running one.
    """

    flat: FlatParameters
    optimizer: FlatOptimizer
    rate: Callable[[int], float]
    step: int = 0
    enough: bool = False

    def update(self) -> None:
        self.optimizer.update(self.rate(self.step))
        self.step += 1


class Observer(Protocol):
    """Watches finished steps; may raise to stop the run (:class:`detour.errors.Interrupted`)."""

    def on_step(self, state: TrainState, report: StepReport, /) -> None: ...


def fit(
    state: TrainState,
    loss_fn: LossFn,
    observers: Sequence[Observer],
    *,
    steps: int,
    grad_accum: int = 1,
    max_grad_norm: float = 1.0,
) -> None:
    """Update ``state`` until it has made ``steps`` updates or an observer finds that it is enough.

    Raises:
        TrainingDiverged: the loss or the gradient norm is not finite; ``state`` is as it was after the last good
            update.
    """
    while state.step < steps and not state.enough:
        loss = accumulate(loss_fn, state.step, grad_accum)
        grad_norm = state.flat.clip_grads(max_grad_norm)
        report = StepReport(state.step + 1, loss, grad_norm, state.rate(state.step))
        if not report.finite:
            state.flat.zero_grads()
            raise TrainingDiverged(
                f"step {report.step}: the loss is {loss:g} and the gradient norm {grad_norm:g}; "
                f"stopped before the update."
            )
        state.update()
        for observer in observers:
            observer.on_step(state, report)


def accumulate(loss_fn: LossFn, step: int, grad_accum: int) -> float:
    """Add the gradients of ``grad_accum`` equal micro-batches; returns the loss of the whole batch."""
    total = 0.0
    for micro in range(grad_accum):
        loss = loss_fn(step, micro) / grad_accum
        loss.backward()
        total += loss.item()
    return total
