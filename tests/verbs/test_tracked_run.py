from pathlib import Path
from typing import Any

import pytest

from detour.training.tracking import TrackerName
from detour.verbs.train import fitting as fit_run
from detour.verbs.train import run as train_adapter
from tests.training.test_tracking import Recorder
from tests.verbs.photos import make_photos, quick_spec


def test_a_run_hands_its_tracker_what_it_writes_itself(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder, given = Recorder(), {}

    def opened(name: TrackerName, run_folder: Path, **rest: Any) -> Recorder:
        given.update(rest, name=name)
        return recorder

    monkeypatch.setattr(fit_run, "open_tracker", opened)
    monkeypatch.setattr("detour.verbs.train.run_plan.require_tracker", lambda name: None)
    monkeypatch.setattr(train_adapter, "_prove", lambda *_: None)
    photos = make_photos(tmp_path / "photos")
    spec = quick_spec(
        tiny_base, photos, track="wandb", train__steps=2, validate__every=2, sample__every=2, sample__count=1
    )
    train_adapter.train_adapter(spec, runs=tmp_path)
    assert [(one[0], sorted(one[1])) for one in recorder.said[:-2]] == [
        (0, ["val_loss"]),
        (1, ["grad_norm", "loss", "lr"]),
        (2, ["grad_norm", "loss", "lr"]),
        (2, ["val_loss"]),
    ]
    step, pictures = recorder.said[-2]
    assert (step, len(pictures), recorder.said[-1]) == (2, 1, "closed")
    assert (given["name"], given["resumed_at"]) == ("wandb", None)
    assert str(tmp_path) not in str(given["settings"])
