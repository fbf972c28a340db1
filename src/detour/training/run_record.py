"""``run.json``: what state a run is in, for whoever looks while it runs or after it died."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from detour.errors import Interrupted, TrainingDiverged
from detour.specs.resolved import ResolvedRun
from detour.training.loop import StepReport, TrainState
from detour.training.methods import method_name
from detour.training.run_folder import HeldFolder, State, write_state

SECONDS_BETWEEN_WRITES = 2.0
"""``run.json`` is durable, so every write costs a flush; the steps are in ``metrics.jsonl`` anyway."""


class RunRecord:
    """Writes ``run.json``; as an observer it keeps the step up to date."""

    def __init__(self, run_folder: Path, spec: ResolvedRun, base_identity: str) -> None:
        self._folder = run_folder
        self._held = HeldFolder(run_folder)
        self._begun = self._written = time.perf_counter()
        self._facts: dict[str, Any] = {
            "step": 0,
            "steps": spec.train.steps,
            "name": spec.name,
            "goal": spec.goal,
            "method": method_name(spec.adapter),
            "base": base_identity,
            "device": spec.base.device,
            "dtype": spec.base.dtype,
            "threads": spec.train.threads,
            "torch": torch.__version__,
            "seconds": 0.0,
        }

    def write(self, state: State, facts: Mapping[str, Any] | None = None) -> None:
        """Write the state with these facts added to the known ones.

        Raises:
            StorageError: disk full or not writable.
            RunError: the folder was renamed, moved or deleted.
        """
        self.check()
        self._written = time.perf_counter()
        self._facts |= {"seconds": round(self._written - self._begun, 2), **(facts or {})}
        write_state(self._folder, state, self._facts)

    def on_step(self, _state: TrainState, report: StepReport) -> None:
        self._facts |= {"step": report.step, "loss": report.loss}
        if time.perf_counter() - self._written > SECONDS_BETWEEN_WRITES:
            self.write("running")

    def check(self) -> None:
        """Refuse to go on when the run's folder is not there any more; whoever writes into it asks first.

        Raises:
            RunError: it was renamed, moved or deleted.
        """
        self._held.check(step=self._facts["step"])

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Write ``running`` now, and how it ended if the block raises."""
        self.write("running")
        try:
            yield
        except BaseException as error:
            if self._held.is_there():
                self.write(_state_of(error), {"error": _one_line(error)})
            raise
        finally:
            self._held.close()


class FolderCheck:
    """An observer that comes before those that write: it ends a run whose folder is not there any more."""

    def __init__(self, record: RunRecord) -> None:
        self._record = record

    def on_step(self, _state: TrainState, _report: StepReport) -> None:
        self._record.check()


def _state_of(error: BaseException) -> State:
    if isinstance(error, TrainingDiverged):
        return "diverged"
    return "interrupted" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed"


def _one_line(error: BaseException) -> str:
    return " ".join((str(error) or type(error).__name__).split())
