import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from detour.errors import ConfigError, MissingExtra
from detour.training.loop import StepReport
from detour.training.tracking import Tracking, open_tracker, require_tracker

STATE: Any = SimpleNamespace()


def report(step: int) -> StepReport:
    return StepReport(step=step, loss=0.5, grad_norm=2.0, lr=1e-4)


class Recorder:
    def __init__(self, *, fails_at: int = 0) -> None:
        self.said: list[Any] = []
        self._fails_at = fails_at

    def scalars(self, step: int, figures: Mapping[str, float]) -> None:
        if self._fails_at and step >= self._fails_at:
            raise ConnectionError("no\nroute")
        self.said.append((step, dict(figures)))

    def pictures(self, step: int, files: Sequence[Path]) -> None:
        self.said.append((step, [file.name for file in files]))

    def close(self) -> None:
        self.said.append("closed")


def test_steps_validations_and_sample_pictures_are_handed_on(tmp_path: Path) -> None:
    for name in ("01-b.png", "00-a.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    recorder = Recorder()
    tracking = Tracking(recorder, val_loss={0: 0.9, 2: 0.7}.get, tell=print)
    tracking.validated(0)
    for step in (1, 2):
        tracking.on_step(STATE, report(step))
    tracking.drew(2, tmp_path)
    tracking.close()
    figures = {"loss": 0.5, "grad_norm": 2.0, "lr": 1e-4}
    assert recorder.said == [
        (0, {"val_loss": 0.9}),
        (1, figures),
        (2, figures),
        (2, {"val_loss": 0.7}),
        (2, ["00-a.png", "01-b.png"]),
        "closed",
    ]


def test_a_tracker_that_fails_is_left_behind_with_one_note(tmp_path: Path) -> None:
    notes: list[str] = []
    recorder = Recorder(fails_at=2)
    tracking = Tracking(recorder, val_loss=lambda _: None, tell=notes.append)
    for step in (1, 2, 3):
        tracking.on_step(STATE, report(step))
    tracking.drew(3, tmp_path)
    tracking.close()
    assert [step for step, _ in recorder.said] == [1]
    assert notes == ["The tracker failed (no route); the run goes on without it."]


def test_an_absent_package_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"pip install detour-lora\[track\]"):
        require_tracker("wandb")
    require_tracker("none")


class FakeRun:
    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.logged: list[dict[str, Any]] = []
        self.finished = False

    def define_metric(self, name: str, **how: str) -> None:
        pass

    def log(self, figures: dict[str, Any]) -> None:
        self.logged.append(figures)

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> list[FakeRun]:
    """A package of that name; the runs that were begun."""
    runs: list[FakeRun] = []
    module = ModuleType("wandb")

    def init(**settings: Any) -> FakeRun:
        runs.append(FakeRun(settings))
        return runs[-1]

    module.init = init  # type: ignore[attr-defined]
    module.Image = lambda path, caption: (Path(path).name, caption)  # type: ignore[attr-defined]
    module.__spec__ = SimpleNamespace(name="wandb")  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "wandb", module)
    return runs


def test_wandb_gets_figures_pictures_and_a_resumed_run_the_same_id(
    wandb: list[FakeRun], tmp_path: Path
) -> None:
    folder = tmp_path / "style"
    for resumed_at in (None, 4):
        tracker = open_tracker("wandb", folder, settings={"seed": 3}, resumed_at=resumed_at)
        assert tracker is not None
        tracker.scalars(5, {"loss": 0.5})
        tracker.pictures(5, [folder / "00-a.png"])
        tracker.close()
    first, second = wandb
    assert (
        first.settings["id"] == second.settings["id"] == json.loads((folder / "wandb.json").read_text())["id"]
    )
    assert (first.settings["name"], first.settings["config"], first.settings["resume"]) == (
        "style",
        {"seed": 3},
        "allow",
    )
    assert second.logged == [{"step": 5, "loss": 0.5}, {"step": 5, "samples": [("00-a.png", "00-a")]}]
    assert second.finished


def test_a_tracker_that_does_not_start_says_so_before_the_first_step(
    wandb: list[FakeRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**_: Any) -> None:
        raise RuntimeError("api_key not configured")

    monkeypatch.setattr(sys.modules["wandb"], "init", refused)
    with pytest.raises(ConfigError, match=r"does not start \(api_key not configured\).*--track none"):
        open_tracker("wandb", tmp_path, settings={}, resumed_at=None)


def test_tensorboard_reads_back_what_was_written(tmp_path: Path) -> None:
    """With the real package, where it is installed; a resumed run takes back what came after its checkpoint."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    Image.new("RGB", (8, 6), (255, 0, 0)).save(tmp_path / "00-a.png")
    for resumed_at, value in ((None, 0.9), (1, 0.5)):
        tracker = open_tracker("tensorboard", tmp_path, settings={}, resumed_at=resumed_at)
        assert tracker is not None
        for step in (1, 2, 3) if resumed_at is None else (2, 3):
            tracker.scalars(step, {"loss": value})
        tracker.pictures(3, [tmp_path / "00-a.png"])
        tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = {one.step: one.value for one in events.Scalars("loss")}
    assert losses == pytest.approx({1: 0.9, 2: 0.5, 3: 0.5})
    assert events.Images("samples/00-a")[-1].width == 8


def test_a_fake_tensorboard_gets_the_same_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    class Writer:
        def __init__(self, folder: str, purge_step: int | None) -> None:
            calls.append(("open", Path(folder).name, purge_step))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            calls.append((name, value, step))

        def add_image(self, name: str, pixels: Any, step: int, dataformats: str) -> None:
            calls.append((name, pixels.shape, step, dataformats))

        def close(self) -> None:
            calls.append(("close",))

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(torch.utils, "tensorboard", module, raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: module)
    Image.new("RGB", (8, 6)).save(tmp_path / "00-a.png")
    tracker = open_tracker("tensorboard", tmp_path, settings={}, resumed_at=4)
    assert tracker is not None
    tracker.scalars(5, {"loss": 0.5})
    tracker.pictures(5, [tmp_path / "00-a.png"])
    tracker.close()
    assert calls == [
        ("open", "tensorboard", 5),
        ("loss", 0.5, 5),
        ("samples/00-a", (6, 8, 3), 5, "HWC"),
        ("close",),
    ]
