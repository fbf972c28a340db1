"""What watches a run: the log of its steps, validation, sample sheets, checkpoints, progress.

Each is told of every finished step; the order in which the recipe lists them is the order in which they act.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from detour.errors import TrainingDiverged
from detour.files import storage_error, write_text
from detour.step_log import read_step_log
from detour.training.checkpoints import Checkpoint, save_checkpoint
from detour.training.loop import StepReport, TrainState
from detour.training.processes import ALONE, Processes
from detour.training.stopping import StopRequest

METRICS = "metrics.jsonl"


class MetricsLog:
    """One JSON line a step: step, loss, grad_norm, lr, and seconds, the only key that differs from run to run.

    With an optimizer that finds its own rate also ``d_lr``, the rate that it really took: its estimate times ``lr``. In
    fp16 the loss scale, too, and how often the step was made again because a gradient overflowed.

    Attributes:
        seconds: of all steps so far, those before a resume included.
        last_loss: of the newest step.
        notes: what of the log of a resumed run could not be read.
    """

    def __init__(self, run_folder: Path, *, resumed_at: int | None = None) -> None:
        """Open the log of ``run_folder``; lines of steps after ``resumed_at`` are cut off, they come again."""
        self.path = run_folder / METRICS
        self.notes: list[str] = []
        kept = [] if resumed_at is None else self._lines_until(resumed_at)
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        try:
            self._stream = self.path.open("a", encoding="utf-8", newline="\n")
        except OSError as error:
            raise storage_error(self.path, error) from error
        self.seconds = sum(float(line.get("seconds", 0.0)) for line in kept)  # of a line of validation: none
        self.last_loss: float | None = next((line["loss"] for line in reversed(kept) if "loss" in line), None)
        self._last = time.perf_counter()

    def _lines_until(self, step: int) -> list[dict[str, Any]]:
        """The lines of the first ``step`` steps; what is missing among them goes into ``notes``."""
        try:
            found = read_step_log(self.path)
        except OSError as error:
            raise storage_error(self.path, error) from error
        kept = [line for line in found.lines if line["step"] <= step]
        if found.damaged:
            self.notes.append(found.problem(self.path))
        elif len({line["step"] for line in kept if "loss" in line}) < step:
            self.notes.append(
                f"{self.path}: steps before {step} are missing; the curves begin where it goes on."
            )
        return kept

    def on_step(self, _state: TrainState, report: StepReport) -> None:
        now = time.perf_counter()
        seconds, self._last = round(now - self._last, 4), now
        self.seconds += seconds
        self.last_loss = report.loss
        line = {"step": report.step, "loss": report.loss, "grad_norm": report.grad_norm, "lr": report.lr}
        if report.d_lr is not None:
            line["d_lr"] = report.d_lr
        if report.loss_scale is not None:
            line |= {"loss_scale": report.loss_scale, "repeated": report.repeated}
        self.write({**line, "seconds": seconds})

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one line; it is in the file when this returns, so a page can follow the run.

        Raises:
            StorageError: disk full or folder gone.
        """
        try:
            self._stream.write(json.dumps(dict(line)) + "\n")
            self._stream.flush()
        except OSError as error:
            raise storage_error(self.path, error) from error

    def sync(self) -> None:
        """Make the lines durable, so that a checkpoint never knows more than the log.

        Raises:
            StorageError: disk full or folder gone.
        """
        try:
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise storage_error(self.path, error) from error

    def close(self) -> None:
        """Close the file; every line was flushed, or its failure was said when it was written."""
        with contextlib.suppress(OSError):  # it tries once more to write a line that did not fit
            self._stream.close()


class NoLog(MetricsLog):
    """The log of a process that is not the first: it counts, and writes nothing."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.last_loss = None
        self.notes = []
        self._last = time.perf_counter()

    def write(self, _line: Mapping[str, Any]) -> None:
        """Write nothing, because the first process writes the line."""

    def sync(self) -> None:
        """Do nothing: there is no file to make durable."""

    def close(self) -> None:
        """Do nothing: there is no file to close."""


class Validator:
    """Writes ``val_loss`` every ``every`` steps, keeps the weights of the lowest, and says when it is enough.

    Args of the constructor:
        measure: the validation loss of the weights of the moment.
        every: steps between two measurements; 0 never.
        keep_best: keep the weights of the lowest loss.
        patience: measurements without a new lowest loss after which the run ends; 0 never.
    """

    def __init__(
        self,
        log: MetricsLog,
        measure: Callable[[], float],
        *,
        every: int,
        keep_best: bool = False,
        patience: int = 0,
    ) -> None:
        self._log = log
        self._measure = measure
        self.every = every
        self._keep_best = keep_best
        self._patience = patience
        self.since_best = 0
        self.history: list[tuple[int, float]] = []
        self.latest: float | None = None
        self.latest_step: int | None = None
        self.best_loss: float | None = None
        self.best_step: int | None = None
        self.best_values: Tensor | None = None

    def on_step(self, state: TrainState, report: StepReport) -> None:
        if self.every and report.step % self.every == 0:
            self.validate(state)

    def validate(self, state: TrainState) -> None:
        """Measure the weights that would be shipped now; before step 1 this is the base's own loss.

        Raises:
            TrainingDiverged: the loss is not finite.
        """
        with state.as_shipped():
            measured = self._measure()
        if not math.isfinite(measured):
            raise TrainingDiverged(f"step {state.step}: the validation loss is {measured:g}.")
        self.latest = measured
        self.latest_step = state.step
        self._log.write({"step": state.step, "val_loss": self.latest})
        self.history.append((state.step, self.latest))
        self.since_best += 1
        if self.best_loss is None or self.latest < self.best_loss:
            self.best_loss, self.since_best = self.latest, 0
            if self._keep_best:
                self.best_step, self.best_values = state.step, state.shipped().clone()
        state.enough = self.enough

    @property
    def enough(self) -> bool:
        """Whether the patience is used up."""
        return 0 < self._patience <= self.since_best

    def load(self, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`facts` and :meth:`tensors` gave."""
        self.latest, self.best_loss, self.best_step = (
            facts[k] for k in ("val_loss", "best_loss", "best_step")
        )
        self.since_best = int(facts.get("since_best", 0))
        self.history = [(int(step), float(loss)) for step, loss in facts.get("validation", ())]
        self.best_values = tensors.get("best")

    def facts(self) -> dict[str, Any]:
        return {
            "validation": [list(pair) for pair in self.history],
            "val_loss": self.latest,
            "best_loss": self.best_loss,
            "best_step": self.best_step,
            "since_best": self.since_best,
        }

    def loss_at(self, step: int) -> float | None:
        """The loss that was measured at ``step``; ``None`` where none was."""
        return self.latest if step == self.latest_step else None

    def tensors(self) -> dict[str, Tensor]:
        return {} if self.best_values is None else {"best": self.best_values}


class Sheets:
    """Calls ``draw`` with the step every ``every`` steps."""

    def __init__(self, draw: Callable[[int], None], *, every: int) -> None:
        self._draw = draw
        self._every = every

    def on_step(self, state: TrainState, report: StepReport) -> None:
        if self._every and report.step % self._every == 0:
            with state.as_shipped():
                self._draw(report.step)


class Checkpointer:
    """Saves every ``every`` steps, at a new best one, at the end, and when somebody wants to stop; then it stops.

    Beside the state, of which few stay, goes the adapter as a file of its own, which stays: except where a run is
    stopped, for such a step is one that no other run has.

    It comes last in the list of observers: what it saves must include what the others did at the step. With several
    processes each has one; all stop at the same step, and the first one writes.
    """

    def __init__(
        self,
        run_folder: Path,
        *,
        every: int,
        keep: int,
        steps: int,
        stop: StopRequest,
        log: MetricsLog,
        validator: Validator,
        facts: Mapping[str, Any],
        processes: Processes = ALONE,
        keep_adapter: Callable[[int], object] | None = None,
    ) -> None:
        self._processes = processes
        self._keep_adapter = keep_adapter
        self._run_folder = run_folder
        self._every, self._keep, self._steps = every, keep, steps
        self._stop, self._log, self._validator = stop, log, validator
        self._facts = dict(facts)

    def on_step(self, state: TrainState, report: StepReport) -> None:
        due = bool(self._every) and report.step % self._every == 0
        best = report.step == self._validator.best_step
        last = report.step == self._steps or state.enough
        stop = self._processes.any_of(self._stop.wanted)
        if (due or best or last) and self._keep_adapter is not None and self._processes.first:
            with state.as_shipped():
                self._keep_adapter(report.step)
        if due or best or last or stop:
            self.save(state)
        if stop:
            raise self._stop.error(f"stopped after step {report.step} of {self._steps}; everything is saved.")

    def save(self, state: TrainState) -> None:
        """Write the state as it is now.

        Raises:
            StorageError: disk full; older checkpoints are untouched.
            RunError: the processes' weights are not the same.
        """
        self._processes.check_same(state.flat.values, step=state.step)
        if not self._processes.first:
            return
        self._log.sync()
        checkpoint = Checkpoint(
            step=state.step,
            tensors={**state.tensors(), **self._validator.tensors()},
            facts={**self._facts, **self._validator.facts()},
        )
        save_checkpoint(self._run_folder, checkpoint, keep=self._keep, best=self._validator.best_step)


def restore(state: TrainState, checkpoint: Checkpoint) -> None:
    """Put a checkpoint's weights, optimizer and step into ``state``, in place."""
    device = state.flat.values.device
    state.load({name: tensor.to(device) for name, tensor in checkpoint.tensors.items()}, step=checkpoint.step)


class Pace:
    """Tells a progress callback how far the run is and how long it will take."""

    def __init__(
        self,
        tell: Callable[[int, float, Mapping[str, float]], None],
        *,
        first_step: int,
        steps: int,
        validator: Validator,
    ) -> None:
        self._tell = tell
        self._first, self._steps = first_step, steps
        self._validator = validator
        self._begun = time.perf_counter()

    def on_step(self, _state: TrainState, report: StepReport) -> None:
        seconds = (time.perf_counter() - self._begun) / (report.step - self._first)
        rate = {"lr": report.lr} if report.d_lr is None else {"d·lr": report.d_lr}
        figures = {"loss": report.loss, **rate, "s/step": seconds}
        if self._validator.latest is not None:
            figures["val_loss"] = self._validator.latest
        self._tell(report.step, seconds * (self._steps - report.step), figures)
