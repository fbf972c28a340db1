"""Curves and sample pictures for a tracker that the user follows anyway: TensorBoard or Weights & Biases.

``metrics.jsonl`` and ``samples/`` are written whether or not there is one. A tracker that fails while the run goes on
is left behind with a note: training depends on no service.
"""

import importlib.util
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from detour.errors import ConfigError, MissingExtra
from detour.files import write_json
from detour.training.loop import StepReport, TrainState

TrackerName = Literal["none", "tensorboard", "wandb"]
PROJECT = "detour"
WANDB_ID = "wandb.json"


class Tracker(Protocol):
    """Where figures and pictures go."""

    def scalars(self, step: int, figures: Mapping[str, float], /) -> None: ...

    def pictures(self, step: int, files: Sequence[Path], /) -> None: ...

    def close(self) -> None: ...


def require_tracker(name: TrackerName) -> None:
    """Whether the package is installed.

    Raises:
        MissingExtra: it is not.
    """
    if name != "none" and importlib.util.find_spec(name) is None:
        raise MissingExtra(
            f"track = '{name}' needs the {name} package. Install it: pip install detour-lora[track]"
        )


def open_tracker(
    name: TrackerName, run_folder: Path, *, settings: Mapping[str, Any], resumed_at: int | None
) -> Tracker | None:
    """Begin to track a run, or go on with it.

    Args:
        name: which; ``none`` gives ``None``.
        run_folder: of the run; its name is the run's name there.
        settings: what the tracker shows as the run's configuration; without paths.
        resumed_at: step that a resumed run goes on from; what was tracked after it comes again.

    Raises:
        MissingExtra: the package is not installed.
        ConfigError: it does not start, e.g. nobody is logged in.
    """
    require_tracker(name)
    if name == "none":
        return None
    try:
        if name == "tensorboard":
            return TensorBoard(run_folder / "tensorboard", resumed_at=resumed_at)
        return WeightsAndBiases(run_folder, settings=settings)
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ConfigError(
            f"track = '{name}' does not start ({reason}). Fix that, or run with --track none."
        ) from error


class TensorBoard:
    """Event files in the run folder: ``tensorboard --logdir runs``."""

    def __init__(self, folder: Path, *, resumed_at: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge = None if resumed_at is None else resumed_at + 1
        self._writer = SummaryWriter(str(folder), purge_step=purge)

    def scalars(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def pictures(self, step: int, files: Sequence[Path]) -> None:
        import numpy as np
        from PIL import Image

        for file in files:
            with Image.open(file) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            self._writer.add_image(f"samples/{file.stem}", pixels, step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """One run of the project "detour"; its id is kept in the run folder, so that a resumed run goes on there."""

    def __init__(self, run_folder: Path, *, settings: Mapping[str, Any]) -> None:
        import wandb

        self._wandb = wandb
        self._run = wandb.init(
            project=PROJECT,
            name=run_folder.name,
            id=_kept_id(run_folder / WANDB_ID),
            resume="allow",
            dir=str(run_folder),
            config=dict(settings),
        )
        # A resumed run sends some steps again: the step is a figure of ours, for theirs must never go back.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log({"step": step, **figures})

    def pictures(self, step: int, files: Sequence[Path]) -> None:
        shown = [self._wandb.Image(str(file), caption=file.stem) for file in files]
        self._run.log({"step": step, "samples": shown})

    def close(self) -> None:
        self._run.finish()


def _kept_id(path: Path) -> str:
    if path.exists():
        return str(json.loads(path.read_text(encoding="utf-8"))["id"])
    chosen = uuid.uuid4().hex[:12]
    write_json(path, {"id": chosen})
    return chosen


class Tracking:
    """Observer that hands each step to a tracker, until the tracker fails."""

    def __init__(
        self, tracker: Tracker | None, *, val_loss: Callable[[int], float | None], tell: Callable[[str], None]
    ) -> None:
        """Follow a run's curves and pictures.

        Args:
            tracker: ``None`` tracks nothing.
            val_loss: validation loss measured at a step, ``None`` where none was.
            tell: given a sentence when the tracker fails.
        """
        self._tracker, self._val_loss, self._tell = tracker, val_loss, tell

    def on_step(self, _state: TrainState, report: StepReport) -> None:
        figures = {"loss": report.loss, "grad_norm": report.grad_norm, "lr": report.lr}
        self._do(lambda tracker: tracker.scalars(report.step, figures))
        self.validated(report.step)

    def validated(self, step: int) -> None:
        """Track the validation loss of ``step``, if there is one."""
        loss = self._val_loss(step)
        if loss is not None:
            self._do(lambda tracker: tracker.scalars(step, {"val_loss": loss}))

    def drew(self, step: int, folder: Path) -> None:
        """Track the sample pictures in ``folder``."""
        self._do(lambda tracker: tracker.pictures(step, sorted(folder.glob("*.png"))))

    def close(self) -> None:
        """Let the tracker send what it still holds."""
        self._do(lambda tracker: tracker.close())

    def _do(self, send: Callable[[Tracker], None]) -> None:
        if self._tracker is None:
            return
        try:
            send(self._tracker)
        except Exception as error:  # whatever a service raises; the run is worth more
            self._tracker = None
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            self._tell(f"The tracker failed ({reason}); the run goes on without it.")
