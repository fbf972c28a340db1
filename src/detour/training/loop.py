"""The training loop. It knows steps, not images: it is handed a loss, and everything optional is an observer."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from detour.errors import TrainingDiverged
from detour.training.ema import Ema
from detour.training.flat import FlatParameters
from detour.training.loss_scale import LossScale
from detour.training.optim import FlatOptimizer
from detour.training.processes import WHOLE, Share

LossFn = Callable[[int, int], Tensor]
"""(step, micro) → scalar loss with a graph; a pure function of its arguments and of the adapter's weights.

With several processes it is this process's part of the micro-batch's mean, so that the parts add up to it."""

OPTIMIZER = "optimizer."
"""Prefix of the optimizer's tensors among those of a state."""


@dataclass(frozen=True)
class StepReport:
    """What one step did. ``step`` counts finished updates, from 1.

    Attributes:
        loss_scale: by which the loss was multiplied in fp16; ``None`` without.
        repeated: attempts at this step whose gradients overflowed.
        d_lr: the rate that the optimizer found by itself, times ``lr``; ``None`` where ``lr`` is the rate.
    """

    step: int
    loss: float
    grad_norm: float
    lr: float
    loss_scale: float | None = None
    repeated: int = 0
    d_lr: float | None = None

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


@dataclass
class TrainState:
    """What changes during a run: the flat weights, the optimizer's state and how many updates were made.

    Attributes:
        enough: an observer found that more steps would not help; the loop ends after the running one.
        ema: a running average of the weights, which is used and shipped in their place.
        scale: of the loss, in fp16.
    """

    flat: FlatParameters
    optimizer: FlatOptimizer
    rate: Callable[[int], float]
    step: int = 0
    enough: bool = False
    ema: Ema | None = None
    scale: LossScale | None = None

    def update(self) -> None:
        self.optimizer.update(self.rate(self.step))
        self.step += 1
        if self.ema is not None:
            self.ema.update(self.flat.values, self.step)

    def shipped(self) -> Tensor:
        """(numel,) float32: the weights to validate, draw with and ship; an average where the run keeps one."""
        average = self.ema.values if self.ema is not None else self.optimizer.averaged()
        return self.flat.values.detach() if average is None else average

    @contextlib.contextmanager
    def as_shipped(self) -> Iterator[None]:
        """Put the weights that are shipped into the model inside the block, afterwards the trained ones."""
        shipped = self.shipped()
        if shipped.data_ptr() == self.flat.values.data_ptr():
            yield
            return
        trained = self.flat.values.detach().clone()
        self.flat.load(shipped)
        try:
            yield
        finally:
            self.flat.load(trained)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that changes, by name."""
        found = {OPTIMIZER + name: tensor for name, tensor in self.optimizer.tensors().items()}
        found["values"] = self.flat.values.detach()
        if self.ema is not None:
            found["ema"] = self.ema.values
        if self.scale is not None:
            found["loss_scale"] = self.scale.tensor()
        return found

    def load(self, tensors: Mapping[str, Tensor], *, step: int) -> None:
        """Put back, in place, what :meth:`tensors` gave after ``step`` updates."""
        self.flat.load(tensors["values"])
        self.optimizer.load(
            {n.removeprefix(OPTIMIZER): t for n, t in tensors.items() if n.startswith(OPTIMIZER)},
            updates=step,
        )
        if self.ema is not None:
            self.ema.values.copy_(tensors["ema"])
        if self.scale is not None:
            self.scale.load(tensors["loss_scale"])
        self.step = step


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
    share: Share = WHOLE,
) -> None:
    """Update ``state`` until it has made ``steps`` updates or an observer finds that it is enough.

    Raises:
        TrainingDiverged: the loss or the gradient norm is not finite; ``state`` is as it was after the last good
            update.
    """
    while state.step < steps and not state.enough:
        report = attempt(state, loss_fn, grad_accum=grad_accum, max_grad_norm=max_grad_norm, share=share)
        state.update()
        for observer in observers:
            observer.on_step(state, report)


def attempt(
    state: TrainState, loss_fn: LossFn, *, grad_accum: int, max_grad_norm: float, share: Share = WHOLE
) -> StepReport:
    """Gradients of one step, clipped, in the flat buffer; with fp16 at the largest scale that does not overflow.

    Raises:
        TrainingDiverged: they are not finite; they are zero then.
    """
    repeated = 0
    while True:
        scale = None if state.scale is None else state.scale.scale
        total = accumulate(loss_fn, state.step, grad_accum, scale=scale or 1.0, share=share)
        share.add_up(state.flat.grads, total)
        norm = state.flat.clip_grads(max_grad_norm, scale=scale or 1.0)
        # The only read of the step: on a GPU each one waits for everything that was asked for before.
        loss, grad_norm = torch.stack([total, norm]).tolist()
        rate = state.rate(state.step)
        found = state.optimizer.found_rate()
        report = StepReport(
            state.step + 1,
            loss,
            grad_norm,
            rate,
            loss_scale=scale,
            repeated=repeated,
            d_lr=None if found is None else found * rate,
        )
        if report.finite:
            if state.scale is not None:
                state.scale.succeeded()
            return report
        state.flat.zero_grads()
        if state.scale is None or not math.isfinite(loss):
            break
        state.scale.overflowed()
        repeated += 1
        if state.scale.hopeless:
            break
    scaled = "" if state.scale is None else f" at loss scale {scale:g}"
    raise TrainingDiverged(
        f"step {report.step}: the loss is {loss:g} and the gradient norm {grad_norm:g}{scaled}; "
        f"stopped before the update."
    )


def accumulate(
    loss_fn: LossFn, step: int, grad_accum: int, *, scale: float = 1.0, share: Share = WHOLE
) -> Tensor:
    """Add the gradients of this process's share of ``grad_accum`` equal micro-batches, times ``scale``.

    Returns:
        The loss of that share without the scale, a float32 scalar on the device: nothing waits for it here.
    """
    losses = []
    for micro in share.micros(grad_accum):
        loss = loss_fn(step, micro) / grad_accum
        (loss * scale).backward()
        losses.append(loss.detach())
    return torch.stack(losses).sum()
