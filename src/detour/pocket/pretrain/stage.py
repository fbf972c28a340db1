"""One resumable training stage: a loop that knows steps, a state on disk, a log, and a clean stop.

Everything random in a stage is a function of (seed, step), so that a stage that was stopped and taken up
again makes the same weights as one that ran through.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from detour.pocket.pretrain.optimizers import set_rate, states, warmup_stable_decay

LossFunction = Callable[[int, torch.Generator], tuple[Tensor, Mapping[str, float]]]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Length and shape of a stage.

    Attributes:
        steps: the stage ends when this many are done.
        warmup: steps until the full learning rate.
        decay: steps at the end over which it falls to zero.
        save_every_s: seconds between two states on disk.
        log_every: steps between two lines of the log.
    """

    steps: int
    warmup: int = 50
    decay: int = 100
    save_every_s: float = 120.0
    log_every: int = 20


@dataclass
class Stage:
    """Models that one stage trains, and the file that keeps their state.

    Attributes:
        name: of its files under ``work``.
        work: folder of states and logs.
        modules: everything that is trained.
        optimizers: over the parameters of ``modules``.
        schedule: length and shape.
        seed: of everything random.
        average_decay: of the moving average of the weights; None keeps no average.
    """

    name: str
    work: Path
    modules: nn.Module
    optimizers: list[torch.optim.Optimizer]
    schedule: Schedule
    seed: int
    average_decay: float | None = None
    step: int = 0
    average: dict[str, Tensor] = field(default_factory=dict)
    stopped: bool = False

    @property
    def state_path(self) -> Path:
        """Where the resumable state stands."""
        return self.work / f"{self.name}.pt"

    def save(self) -> None:
        """Writes the state to a temporary file, flushes it and puts it in place of the old one."""
        state = {
            "step": self.step,
            "modules": self.modules.state_dict(),
            "optimizers": states(self.optimizers),
            "average": self.average,
        }
        temporary = self.state_path.with_suffix(".pt.part")
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.state_path)

    def resume(self) -> bool:
        """Takes up the state on disk.

        Returns:
            whether there was one.
        """
        if not self.state_path.exists():
            return False
        state = torch.load(self.state_path, weights_only=True)
        self.modules.load_state_dict(state["modules"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            peaks = [group["lr"] for group in optimizer.param_groups]
            optimizer.load_state_dict(saved)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["peak_lr"] = peak  # a resumed stage may be given another rate
        self.step = state["step"]
        self.average = state["average"]
        return True

    def generator(self) -> torch.Generator:
        """The random numbers of the step about to be made."""
        return torch.Generator().manual_seed(self.seed * 1_000_003 + self.step)

    def run(self, loss_function: LossFunction) -> None:
        """Trains until the schedule's end, then saves; a SIGTERM or SIGINT ends it before, with its state saved.

        Args:
            loss_function: (step, generator) → (scalar loss, figures for the log).

        Raises:
            FloatingPointError: the loss is not finite; the state on disk stays as last saved.
            SystemExit: it was told to stop. The stages behind it must not begin with a half-trained part.
        """
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            self._loop(loss_function)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        self.save()
        if self.stopped:
            raise SystemExit(
                f"{self.name}: stopped after step {self.step} of {self.schedule.steps}; its state is in "
                f"{self.state_path}. Run the same command again to go on."
            )

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stopped = True

    def _loop(self, loss_function: LossFunction) -> None:
        schedule = self.schedule
        sums: dict[str, float] = {}
        since, saved_at = time.monotonic(), time.monotonic()
        while self.step < schedule.steps and not self.stopped:
            figures = self._one_step(loss_function)
            for key, value in figures.items():
                sums[key] = sums.get(key, 0.0) + value
            if self.step % schedule.log_every == 0:
                seconds = (time.monotonic() - since) / schedule.log_every
                self._log({key: value / schedule.log_every for key, value in sums.items()} | {"s": seconds})
                sums, since = {}, time.monotonic()
            if time.monotonic() - saved_at > schedule.save_every_s:
                self.save()
                saved_at = time.monotonic()

    def _one_step(self, loss_function: LossFunction) -> dict[str, float]:
        schedule = self.schedule
        factor = warmup_stable_decay(
            self.step, steps=schedule.steps, warmup=schedule.warmup, decay=schedule.decay
        )
        set_rate(self.optimizers, factor)
        loss, figures = loss_function(self.step, self.generator())
        if not torch.isfinite(loss):
            raise FloatingPointError(f"{self.name}: loss is {loss.item()} at step {self.step}")
        loss.backward()
        trained = [parameter for parameter in self.modules.parameters() if parameter.grad is not None]
        norm = nn.utils.clip_grad_norm_(trained, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._update_average()
        return {"loss": loss.item(), "norm": norm.item(), "rate": factor, **figures}

    @torch.no_grad()
    def _update_average(self) -> None:
        if self.average_decay is None:
            return
        parameters = dict(self.modules.named_parameters())
        if not self.average:
            self.average = {name: value.detach().clone() for name, value in parameters.items()}
            return
        weight = 1 - min(self.average_decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(
            list(self.average.values()), [parameters[name].detach() for name in self.average], weight
        )

    def _log(self, figures: Mapping[str, float]) -> None:
        words = " ".join(f"{key}={value:.4g}" for key, value in figures.items())
        with (self.work / f"{self.name}.log").open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%H:%M:%S')} step={self.step} {words}\n")


def load_average(path: Path) -> dict[str, Any]:
    """The averaged weights (the weights where no average was kept) of a stage's state on disk."""
    state = torch.load(path, weights_only=True)
    return {**state["modules"], **state["average"]}
